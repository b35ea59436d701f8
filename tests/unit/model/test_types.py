"""The shared types: options are merged, events cross the wire, streams are closed, missing capabilities are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx.errors import Unsupported
from ollmlx.model.events import closing
from ollmlx.model.installed import require
from ollmlx.protocol import decode_event, encode_event
from ollmlx.testing.routes import installed
from ollmlx.types import (
    Capability,
    Done,
    Event,
    Failed,
    GenerateRequest,
    InstalledModel,
    Message,
    Options,
    Prefill,
    Text,
    Thinking,
    ToolCall,
    ToolCalled,
)


def test_options_are_filled_only_where_the_stronger_side_is_unset() -> None:
    model = Options(temperature=0.1, top_k=5)
    request = Options(temperature=0.8)  # stated, though equal to the default
    merged = request.over(model)
    assert (merged.temperature, merged.top_k, merged.top_p) == (0.8, 5, 0.9)
    assert merged.stated == {"temperature": 0.8, "top_k": 5}


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 2}, {"num_predict": -3}, {"num_ctx": 0}, {"x": 1}],
)
def test_impossible_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(bad)


def test_a_request_has_messages_or_a_prompt_and_never_both() -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        GenerateRequest()
    with pytest.raises(ValidationError, match="exactly one"):
        GenerateRequest(prompt="x", messages=(Message(role="user"),))
    assert GenerateRequest(prompt="").prompt == ""


@given(st.text())
def test_text_crosses_the_wire_unchanged(text: str) -> None:
    line = encode_event(Text(text=text))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_event(line) == Text(text=text)


@pytest.mark.parametrize(
    "event",
    [
        Prefill(done=1, total=2, cached=1),
        Thinking(text="hm"),
        ToolCalled(call=ToolCall(name="f", arguments={"b": 1, "a": [None]}, id="1")),
        Done(reason="length", prompt_tokens=3, context=(1, 2)),
        Failed(kind="runner_failed", message="gone", code="RUN001"),
    ],
)
def test_every_event_crosses_the_wire_unchanged(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"type":"text"}', b'{"type":"nope"}', b'\xff{"type":"text"}'])
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_event(line)


async def test_an_abandoned_generator_is_closed_at_the_end_of_the_block() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("closed")

    async with closing(numbers()) as stream:
        assert await anext(stream) == 1
        assert ended == []
    assert ended == ["closed"]


async def test_an_iterator_without_aclose_needs_no_closing() -> None:
    class Sevens:
        def __aiter__(self) -> Sevens:
            return self

        async def __anext__(self) -> int:
            return 7

    async with closing(Sevens()) as stream:
        assert await anext(stream) == 7


TOOL = {"type": "function", "function": {"name": "f"}}
HELLO = (Message(role="user", content="hi"),)


def model(*capabilities: Capability) -> InstalledModel:
    return installed("m", capabilities=capabilities)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (GenerateRequest(messages=HELLO, tools=(TOOL,)), "m does not support tools"),
        (GenerateRequest(prompt="a", suffix="b"), "m does not support insert"),
        (GenerateRequest(messages=HELLO, think=True), '"m" does not support thinking'),
        (GenerateRequest(messages=HELLO, think="high"), '"m" does not support thinking'),
        (GenerateRequest(messages=(Message(role="user", images=("aGk=",)),)), "m does not support images"),
        (GenerateRequest(messages=(Message(role="user", audio=("aGk=",)),)), "m does not support audio"),
    ],
)
def test_a_missing_capability_is_refused_in_ollamas_words(request_: GenerateRequest, sentence: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        require(model("completion"), request_)
    assert refusal.value.message == sentence
    require(model("completion", "tools", "insert", "thinking", "vision", "audio"), request_)


@pytest.mark.parametrize(
    ("request_", "verb"), [(GenerateRequest(messages=HELLO), "chat"), (GenerateRequest(prompt="x"), "generate")]
)
def test_an_embedding_model_does_not_generate(request_: GenerateRequest, verb: str) -> None:
    with pytest.raises(Unsupported, match=f'"m" does not support {verb}'):
        require(model("embedding"), request_)


def test_tools_that_may_not_be_called_and_thinking_switched_off_need_nothing() -> None:
    require(model("completion"), GenerateRequest(messages=HELLO, tools=(TOOL,), tool_choice="none", think=False))
