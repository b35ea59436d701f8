"""Calls of freeform tools that the model was free to make: their texts match the tools' grammars."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ollmlx.calls.freeform import hold_freeform
from ollmlx.helper import close_helpers
from ollmlx.types import Admitted, Done, Event, GenerateRequest, Message, Prefill, Text, Thinking, ToolCall, ToolCalled

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
