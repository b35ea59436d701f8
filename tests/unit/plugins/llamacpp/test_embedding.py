"""Texts are embedded some at a time, so that a long list shows its progress."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.errors import RunnerFailed
from ollmlx.types import EmbedRequest
from ollmlx_llamacpp import engine as module
from ollmlx_llamacpp.engine import LlamaCppEngine
from ollmlx_llamacpp.prompt import PromptBuilder


class FakeLink:
    """llama.cpp for a model whose tokens are words, and whose vectors are the words' lengths, summed up."""

    def __init__(self) -> None:
        self.calls: list[list[list[int]]] = []
        self.most = 99

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": [len(word) for word in body["content"].split()]}
        if len(self.calls) >= self.most:
            raise RunnerFailed("llama.cpp broke off")
        self.calls.append(body["input"])
        found = [{"index": index, "embedding": [sum(tokens), 0.0]} for index, tokens in enumerate(body["input"])]
        return {"data": found[::-1]}


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    monkeypatch.setattr(module, "GROUP_TOKENS", 4)
    return FakeLink()


def engine_over(link: FakeLink) -> LlamaCppEngine:
    engine = LlamaCppEngine()
    engine._link = link  # type: ignore[assignment]
    engine._prompts = PromptBuilder(link, "tiny", 100, templated=True)  # type: ignore[arg-type]
    engine._config = type("Config", (), {"context_length": 100})()
    return engine


async def test_texts_go_in_groups_and_come_back_in_their_order(link: FakeLink) -> None:
    texts = ("a", "bb cc", "d e f g h", "iiii", "k l m", "nn")
    engine = engine_over(link)
    result = await engine.embed(EmbedRequest(inputs=texts))
    assert [len(call) for call in link.calls] == [2, 1, 2, 1], "four tokens at a time, a longer text alone"
    assert [vector[0] for vector in result.embeddings] == [1, 4, 5, 4, 3, 2]
    assert result.prompt_tokens == 13
    assert engine._steps == len(texts) + len(link.calls), "each is progress"


async def test_a_group_that_fails_fails_the_request(link: FakeLink) -> None:
    link.most = 1
    engine = engine_over(link)
    with pytest.raises(RunnerFailed):
        await engine.embed(EmbedRequest(inputs=("a b c", "d e f")))
    assert engine._running == 0
