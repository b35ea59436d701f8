"""`/v1/rerank` and `/api/rerank`: the best documents first, with the fields of Cohere's and Jina's APIs."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai

PATHS = ("/v1/rerank", "/api/rerank")
BODY: dict[str, Any] = {"model": "tiny", "query": "a fox", "documents": ["a long text", {"text": "a"}, "a text"]}


@pytest.fixture
def client() -> Any:
    return web_app(FakeService(models=[installed("tiny", capabilities=("rerank",))]), openai, ollama).test_client()


@pytest.mark.parametrize("path", PATHS)
async def test_the_best_documents_come_first(client: Any, path: str) -> None:
    answer = await (await client.post(path, json=BODY)).get_json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert answer["results"][0] == {"index": 1, "relevance_score": 0.5}
    assert answer["results"][2]["truncated"] is True, "a document that was cut must be told"
    asked = {**BODY, "top_n": 1, "return_documents": True}
    best = await (await client.post(path, json=asked)).get_json()
    assert best["results"] == [{"index": 1, "relevance_score": 0.5, "document": {"text": "a"}}]
    tokens = answer["usage"]["total_tokens"] if path == "/v1/rerank" else answer["prompt_eval_count"]
    assert tokens == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a text"}, "documents"),
        ({"documents": [{"title": "no text"}]}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"truncate": [1]}, "truncate"),
    ],
)
async def test_bad_input_is_a_400_in_the_dialects_words(client: Any, path: str, change: Any, words: str) -> None:
    answer = await client.post(path, json={**BODY, **change})
    assert answer.status_code == 400
    error = (await answer.get_json())["error"]
    assert words in (error["message"] if path == "/v1/rerank" else error)
