"""The events of an answer with calls in them: what is held back, what becomes a call, what is told of a broken one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollmlx.calls.stream import read_calls
from ollmlx.types import (
    Admitted,
    Done,
    Event,
    GenerateRequest,
    Prefill,
    RawCall,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
    ToolCalled,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
CALL = '{"name": "weather", "arguments": {"city": "Boston"}}'
BOSTON = ("weather", {"city": "Boston"})
HEAD: list[Event] = [Admitted(), Prefill(done=1, total=1)]


async def read(*events: Event, recognise: bool = True, **fields: Any) -> list[Event]:
    async def answer() -> AsyncIterator[Event]:
        for event in (*HEAD, *events):
            yield event

    request = GenerateRequest(prompt="x", **{"tools": (WEATHER,), **fields})
    found = [event async for event in read_calls(answer(), request, recognise=recognise)]
    assert found[:2] == HEAD
    return found[2:]


def pieces(text: str) -> list[Event]:
    return [Text(text=text[at : at + 4]) for at in range(0, len(text), 4)]


def calls(events: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    return [(event.call.name, event.call.arguments) for event in events if isinstance(event, ToolCalled)]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def test_an_answer_that_is_a_call_becomes_one() -> None:
    found = await read(Thinking(text="hmm"), *pieces(CALL), Done())
    assert [type(event) for event in found] == [Thinking, ToolCalled, Done]
    assert calls(found) == [BOSTON]
    assert found[-1] == Done(reason="stop")


async def test_a_text_goes_on_as_it_came() -> None:
    said: list[Event] = [
        Text(text="It", logprobs=(TokenLogprob(token="It", logprob=-1.0),)),
        Text(text=" is fine."),
        Done(),
    ]
    assert await read(*said) == said


async def test_a_text_that_turns_out_to_be_none_keeps_its_pieces() -> None:
    said = [*pieces('{"name": "Ada", "age": 3}'), Done()]
    assert await read(*said) == said


async def test_a_call_in_the_middle_of_a_text_stays_text() -> None:
    said = [*pieces(f"Like this: {CALL}"), Done()]
    assert await read(*said) == said


@pytest.mark.parametrize(
    "fields",
    [{"recognise": False}, {"tool_choice": "none"}, {"format": {"type": "object"}}, {"tools": ()}],
    ids=["switched off", "no tool wanted", "the answer has a format", "no tools"],
)
async def test_nothing_is_recognised(fields: dict[str, Any]) -> None:
    said = [*pieces(CALL), Done()]
    assert await read(*said, **fields) == said


async def test_a_call_that_was_cut_by_length_is_not_mended() -> None:
    said = [*pieces(CALL[:-1]), Done(reason="length")]
    assert await read(*said) == said
    cut = RawCall(text=CALL[:-1])
    assert await read(cut, Done(reason="length")) == [Text(text=CALL[:-1]), Done(reason="length")]


async def test_a_freeform_text_that_was_cut_by_length_is_not_called() -> None:
    call = ToolCalled(call=ToolCall(name="weather", arguments={"city": "Bos"}, id="1"))
    fields: dict[str, Any] = {"tool_choice": "weather", "grammars": {"weather": 'start: "Boston"'}}
    assert await read(call, Done(), **fields) == [call, Done()]
    assert await read(call, Done(reason="length"), **fields) == [Text(text="Bos"), Done(reason="length")]


async def test_a_raw_call_is_told_and_ends_the_answer_as_incomplete() -> None:
    broken = '{"name": "weather", "arguments": {"city": "Bos'
    for found in (await read(*pieces(broken), Done()), await read(RawCall(text=broken), Done())):
        assert calls(found) == []
        assert text(found) == (
            f"{broken}\n\n[The tool was not called: the call of weather is not valid JSON: it ends inside a text. "
            "Call it again.]"
        )
        assert found[-1] == Done(reason="length")


async def test_a_call_that_the_engine_could_not_read_is_mended() -> None:
    found = await read(Text(text="Let me see."), RawCall(text="{" + CALL + "}"), Done())
    assert text(found) == "Let me see."
    assert calls(found) == [BOSTON]
    assert calls(await read(RawCall(name="weather", text='{"city": "Boston"'), Done())) == [BOSTON]


async def test_a_call_of_a_tool_that_is_not_offered_is_told() -> None:
    found = await read(RawCall(text='{"name": "sing"}'), Done())
    assert "it is no call of an offered tool" in text(found)
    assert found[-1] == Done(reason="length")


async def test_arguments_are_checked_when_the_client_asks() -> None:
    wrong = ToolCalled(call=ToolCall(name="weather", arguments={"city": 1}, id="1"))
    assert calls(await read(wrong, Done())) == [("weather", {"city": 1})]
    found = await read(wrong, Done(), tools=(STRICT,))
    assert calls(found) == []
    assert "city: 1 is not of type 'string'" in text(found)
    assert found[-1] == Done(reason="length")


async def test_one_call_is_enough_for_a_client_that_wants_one() -> None:
    found = await read(*pieces(f"{CALL}\n{CALL}"), Done(), parallel_tool_calls=False)
    assert calls(found) == [BOSTON]
