"""The vocabulary: merging options, one input a request, events that survive the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx.protocol import decode_event, encode_event
from ollmlx.types import (
    Done,
    Event,
    Failed,
    GenerateRequest,
    Message,
    Options,
    Prefill,
    Text,
    Thinking,
    ToolCall,
    ToolCalled,
)


def test_options_take_only_what_the_stronger_side_left_unset() -> None:
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
