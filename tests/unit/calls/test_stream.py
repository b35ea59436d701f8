"""The events of an answer with calls in them: what is held back, what becomes a call, what is told of a broken one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ollmlx.calls.freeform import hold_freeform
from ollmlx.calls.stream import read_calls
from ollmlx.helper import close_helpers
from ollmlx.types import (
    Admitted,
    Done,
    Event,
    GenerateRequest,
    Message,
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


GRAMMARS = {"patch": 'start: "*** Begin\\n" /[+-][a-z]+/ "\\n*** End"'}
RIGHT = "*** Begin\n+good\n*** End"
TURN = Message(role="user", content="Patch it.")


@pytest.fixture(autouse=True)
def helpers_end() -> Iterator[None]:
    yield
    close_helpers()


def patch(text: str) -> ToolCalled:
    return ToolCalled(call=ToolCall(name="patch", arguments={"input": text}))


class Engine:
    """Gives one answer after another, and notes the requests."""

    def __init__(self, *answers: list[Event]) -> None:
        self._answers = list(answers)
        self.asked: list[GenerateRequest] = []

    async def ask(self, request: GenerateRequest) -> AsyncIterator[Event]:
        self.asked.append(request)
        yield Admitted()
        yield Prefill(done=1, total=1)
        for event in self._answers.pop(0):
            yield event

    async def answer(self, **fields: Any) -> list[Event]:
        request = GenerateRequest(messages=(TURN,), **{"grammars": GRAMMARS, **fields})
        return [event async for event in hold_freeform(request, self.ask)][2:]


@pytest.mark.parametrize(
    "events",
    [
        [Text(text="hi"), Done()],
        [Thinking(text="hm"), patch(RIGHT), Done(generated_tokens=7)],
        [ToolCalled(call=ToolCall(name="other", arguments={"input": "anything"})), Done()],
    ],
    ids=["text", "right", "another-tool"],
)
async def test_an_answer_without_a_fault_is_not_asked_for_again(events: list[Event]) -> None:
    engine = Engine(events)
    assert await engine.answer() == events
    assert len(engine.asked) == 1


@pytest.mark.parametrize("wrong", ["", "+good", RIGHT[:-3], RIGHT + "\n", RIGHT.replace("\n", "\\n")])
async def test_a_text_that_breaks_the_grammar_is_written_again(wrong: str) -> None:
    said: list[Event] = [Text(text="I patch"), Text(text=" it.")]
    engine = Engine([*said, patch(wrong), Done(generated_tokens=20)], [patch(RIGHT), Done(generated_tokens=9)])
    assert await engine.answer() == [*said, patch(RIGHT), Done(generated_tokens=29)]
    _, again = engine.asked
    assert (again.tool_choice, again.grammar, again.continue_last) == ("patch", GRAMMARS["patch"], True)
    assert again.messages == (TURN, Message(role="assistant", content="I patch it."))


async def test_calls_keep_their_order_and_a_call_without_its_text_is_written_again() -> None:
    other = ToolCalled(call=ToolCall(name="other", arguments={}))
    empty = ToolCalled(call=ToolCall(name="patch", arguments={}))
    engine = Engine([other, empty, other, Done()], [patch(RIGHT), Done()])
    assert await engine.answer() == [other, patch(RIGHT), other, Done()]
    assert (engine.asked[1].messages, engine.asked[1].continue_last) == ((TURN,), False)


async def test_a_text_that_is_cut_when_it_is_written_again_stays_text() -> None:
    engine = Engine([patch("no"), Done()], [Text(text=RIGHT[:9]), Done(reason="length")])
    assert await engine.answer() == [Text(text=RIGHT[:9]), Done(reason="length")]


async def test_an_engine_that_holds_no_grammar_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine([patch("no"), Done()], [patch("no"), Done()])
    assert await engine.answer() == [patch("no"), Done()]
    assert "the engine does not hold grammars" in caplog.text
