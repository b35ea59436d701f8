"""The same answers in every dialect: no tag reaches a client, and a stream that fails ends with an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.plugins.mlx.test_answer import QWEN, RECORDED, events_of

from ollmlx.errors import ContextExceeded, RunnerFailed
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, Text, Thinking, ToolCall, ToolCalled
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai

pytestmark = pytest.mark.mlx  # the streams are read by the MLX engine's parser

USER = [{"role": "user", "content": "x"}]
DIALECTS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": USER, "stream": True},
    "/api/generate": {"prompt": "x", "stream": True},
    "/v1/chat/completions": {"messages": USER, "stream": True},
    "/v1/responses": {"input": "x", "stream": True},
    "/v1/messages": {"messages": USER, "stream": True, "max_tokens": 99, "thinking": {"type": "enabled"}},
}
TAGS = ("<think", "</think", "tool_call>", "TOOL_CALLS", "<|", "|>", "[ARGS]", "function_call>", "<invoke", "arg_key")


@pytest.fixture
def service() -> FakeService:
    return FakeService(models=[installed("tiny", capabilities=("completion", "tools", "thinking"))])


@pytest.fixture
def client(service: FakeService) -> Any:
    return web_app(service, ollama, openai, anthropic).test_client()


async def ask(client: Any, path: str) -> str:
    """The whole stream."""
    answer = await client.post(path, json={"model": "tiny", **DIALECTS[path]})
    assert answer.status_code == 200
    return str(await answer.get_data(as_text=True))


def records(body: str) -> list[Any]:
    """The JSON objects of a stream, of lines or of events."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith(("data: ", "{"))]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("path", DIALECTS)
async def test_calls_come_without_the_tags_they_were_written_in(service: FakeService, client: Any, path: str) -> None:
    for kind, text, _ in RECORDED.values():
        service.outcomes = [*events_of(text, kind, 3), Done(generated_tokens=9)]
        body = await ask(client, path)
        assert [tag for tag in TAGS if tag in body] == []
        assert "get_weather" in body


@pytest.mark.parametrize("path", DIALECTS)
async def test_reasoning_comes_apart_from_the_text_without_tags(service: FakeService, client: Any, path: str) -> None:
    service.outcomes = [*events_of("<think>\nsecond thoughts\n</think>\n\nfine", QWEN, 3), Done()]
    body = await ask(client, path)
    assert [tag for tag in TAGS if tag in body] == []
    told: dict[str, str] = {"thinking": "", "text": ""}
    for record in records(body):
        for where, key in (
            ("thinking", "thinking"),
            ("thinking", "reasoning"),
            ("text", "content"),
            ("text", "response"),
        ):
            piece = _delta(record).get(key)
            told[where] += piece if isinstance(piece, str) else ""
    assert told == {"thinking": "second thoughts", "text": "fine"}


def _delta(record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of one record, under Ollama's or OpenAI's names."""
    if "choices" in record:
        return dict(record["choices"][0]["delta"])
    match record.get("type"):
        case "response.output_text.delta":
            return {"content": record["delta"]}
        case "response.reasoning_summary_text.delta":
            return {"thinking": record["delta"]}
        case "content_block_delta":
            return {"content": record["delta"].get("text"), "thinking": record["delta"].get("thinking")}
        case str():
            return {}
    return dict(record.get("message") or record)


BEGUN = (
    Thinking(text="hm"),
    Text(text="hello"),
    ToolCalled(call=ToolCall(name="get_weather", arguments={"city": "Paris"}, id="c")),
)


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_stream_that_breaks_off_ends_with_an_error_whatever_came_before(
    service: FakeService, client: Any, path: str
) -> None:
    for begun in BEGUN:
        service.outcomes = [begun, RunnerFailed("the runner exited", code="RUN003")]
        assert sentence_of(records(await ask(client, path))[-1]) == "the runner exited"


def sentence_of(last: dict[str, Any]) -> str:
    """Return the message of the last record of a failed stream."""
    if "type" in last:
        assert last["type"] in ("response.failed", "error")
    error = last.get("response", last)["error"]
    return str(error if isinstance(error, str) else error["message"])


TOO_LONG: dict[str, tuple[str, str]] = {
    "/api/chat": ("the prompt is too long", ""),
    "/v1/chat/completions": (
        "This model's maximum context length is 4095 tokens. However, your messages resulted in 9003 tokens. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
    ),
    "/v1/messages": ("prompt is too long: 9003 tokens > 4095 maximum", "invalid_request_error"),
}
TOO_LONG["/v1/responses"] = TOO_LONG["/v1/chat/completions"]


@pytest.mark.parametrize("path", TOO_LONG)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_that_does_not_fit_is_refused_in_the_words_of_the_dialect(
    service: FakeService, client: Any, path: str, stream: bool
) -> None:
    refusal = ContextExceeded("the prompt is too long")
    refusal.excess = (9003, 4095)
    service.outcomes = [refusal]
    answer = await client.post(path, json={"model": "tiny", **DIALECTS[path], "stream": stream})
    error = (await answer.get_json())["error"]
    told = (error, "") if isinstance(error, str) else (error["message"], error.get("code") or error["type"])
    assert (answer.status_code, told) == (400, TOO_LONG[path])


@pytest.mark.parametrize("path", DIALECTS)
async def test_only_ollamas_routes_cut_a_prompt(service: FakeService, client: Any, path: str) -> None:
    service.say("hello")
    await ask(client, path)
    request = next(asked for method, _, asked in service.calls if method == "generate")
    assert (request.truncate, request.shift) == ((True, True) if path.startswith("/api/") else (False, False))
