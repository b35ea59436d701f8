"""The thought at the beginning of an answer whose prompt a template of the request made."""

from __future__ import annotations

import pytest

from ollmlx.types import Done, Event, GenerateRequest, Message, Text, Thinking
from ollmlx_llamacpp.thoughts import ThoughtReader

THINKS = "{{ range .Messages }}{{ with .Thinking }}<think>{{ . }}</think>{{ end }}{{ .Content }}{{ end }}"
DONE = Done(reason="stop", prompt_tokens=1, generated_tokens=1)


def told(pieces: list[str], template: str | None = THINKS, think: bool | None = None) -> list[Event]:
    request = GenerateRequest(messages=(Message(role="user", content="hi"),), template=template, think=think)
    reader = ThoughtReader(request)
    sent: list[Event] = [*(Text(text=each) for each in pieces), DONE]
    return [event for piece in sent for event in reader.feed(piece)]


def joined(events: list[Event]) -> tuple[str, str]:
    thought = "".join(event.text for event in events if isinstance(event, Thinking))
    return thought, "".join(event.text for event in events if isinstance(event, Text))


ANSWER = "<think>\nhm, 1 < 2 </thi nk></think>\n\nyes <think>"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_thought_and_answer_are_told_apart_however_the_text_is_cut(size: int) -> None:
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    events = told(pieces)
    assert joined(events) == ("\nhm, 1 < 2 </thi nk>", "yes <think>")
    assert events[-1] == DONE


@pytest.mark.parametrize(
    ("answer", "thought", "text"),
    [
        ("plain", "", "plain"),
        ("", "", ""),
        ("<thi", "", "<thi"),
        ("  <think>cut off</th", "cut off</th", ""),
        ("say <think>x</think>", "", "say <think>x</think>"),
    ],
)
def test_nothing_is_lost(answer: str, thought: str, text: str) -> None:
    assert joined(told(list(answer))) == (thought, text)


def test_a_prompt_that_opens_the_thought_needs_no_tag_in_the_answer() -> None:
    assert joined(told(["hm</think>yes"], template=f"{THINKS}<think>\n")) == ("hm", "yes")


def test_thoughts_are_left_out_when_they_are_not_wanted() -> None:
    assert joined(told([ANSWER], think=False)) == ("", "yes <think>")


def test_without_a_template_that_writes_thoughts_text_stays_text() -> None:
    for template in (None, "{{ .Prompt }}"):
        assert joined(told([ANSWER], template=template)) == ("", ANSWER)
