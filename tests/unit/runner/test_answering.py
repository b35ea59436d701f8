"""What every answer of a SerialEngine gets: stop strings, the length limit, the prompt cut to the context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ContextExceeded
from ollmlx.runner.kit.answers import answered, fit, prompt_of
from ollmlx.types import Done, GenerateRequest, Message, Options, Text


def answer(pieces: list[str], **options: object) -> tuple[str, Done]:
    request = GenerateRequest(prompt="x", options=Options.model_validate(options))
    *texts, done = answered(pieces, request, prompt_tokens=1)
    assert isinstance(done, Done)
    assert all(isinstance(event, Text) and event.text for event in texts)
    return "".join(event.text for event in texts if isinstance(event, Text)), done


@pytest.mark.parametrize(
    ("pieces", "options", "text", "reason", "stop", "count"),
    [
        (["a", "b"], {}, "ab", "stop", None, 2),
        (["a", "b"], {"num_predict": 1}, "a", "length", None, 1),
        (["a", "b"], {"num_predict": 0}, "", "length", None, 0),
        (["a", "b"], {"num_predict": 2}, "ab", "length", None, 2),
        (["ab", "cd"], {"stop": ("bc",)}, "a", "stop", "bc", 2),
        (["ab", "xd"], {"stop": ("bc",)}, "abxd", "stop", None, 2),
        (["one", " END", " two"], {"stop": ("END", "two")}, "one ", "stop", "END", 2),
        (["a", "b"], {"stop": ("b",), "num_predict": 2}, "a", "stop", "b", 2),
        (["ab"], {"stop": ("abc",)}, "ab", "stop", None, 1),
    ],
)
def test_an_answer_ends_where_it_was_told_to(
    pieces: list[str], options: dict[str, object], text: str, reason: str, stop: str | None, count: int
) -> None:
    said, done = answer(pieces, **options)
    assert (said, done.reason, done.stop, done.generated_tokens) == (text, reason, stop, count)


@given(
    st.lists(st.text("ab.", min_size=1, max_size=3), max_size=12),
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3),
)
def test_no_part_of_a_stop_string_is_ever_sent(pieces: list[str], stops: list[str]) -> None:
    said, done = answer(pieces, stop=tuple(stops))
    whole = "".join(pieces)
    assert whole.startswith(said)
    assert not any(stop in said for stop in stops)
    if done.stop is None:
        assert said == whole
    else:
        assert whole[len(said) :].startswith(done.stop)


def test_pieces_that_nobody_needs_are_not_made() -> None:
    made = []

    def pieces() -> Iterator[str]:
        for number in range(10):
            made.append(number)
            yield f"{number} "

    request = GenerateRequest(prompt="x", options=Options(num_predict=3))
    list(answered(pieces(), request, prompt_tokens=1))
    assert made == [0, 1, 2]


def test_the_oldest_tokens_go_when_a_prompt_may_be_cut() -> None:
    request = GenerateRequest(prompt="x")
    assert fit([1, 2, 3], request, 3) == ([1, 2, 3], 0)
    assert fit([1, 2, 3], request, 2) == ([2, 3], 1)
    with pytest.raises(ContextExceeded, match="3 tokens, the context is 2"):
        fit([1, 2, 3], request.model_copy(update={"truncate": False}), 2)


def test_a_conversation_is_a_prompt_of_lines() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
    assert prompt_of(GenerateRequest(messages=messages)) == "system: Be brief.\nuser: Hi"
