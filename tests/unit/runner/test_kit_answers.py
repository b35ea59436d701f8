"""Answers: stop strings wherever the pieces are cut, the length limit, runaway repetition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.runner.kit import RepeatGuard, SerialEngine, StopFilter
from ollmlx.types import Done, GenerateRequest, Options, Text

TEXT = st.text(alphabet="ab<|", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<|", min_size=1, max_size=4), max_size=3)


@given(TEXT, st.lists(st.integers(0, 30), max_size=6), STOPS)
def test_text_ends_right_before_the_first_stop_string_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    filtered = StopFilter(stops)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(filtered.feed(text[a:b]) for a, b in pairwise(edges)) + filtered.flush()
    assert not any(stop in shown for stop in stops)
    if filtered.hit is None:
        assert shown == text
    else:
        assert text.startswith(shown + filtered.hit)


def test_text_that_only_looked_like_a_stop_string_is_shown_as_soon_as_that_is_certain() -> None:
    filtered = StopFilter(["<|end|>", ""])
    assert filtered.feed("so <|e") == "so "
    assert filtered.feed("at") == "<|eat"
    assert filtered.hit is None


@pytest.mark.parametrize(("first", "again"), [((7, "x"), (7, "")), ((7, " x"), (8, "x "))])
def test_a_token_that_comes_more_than_thirty_times_more_is_runaway(
    first: tuple[int, str], again: tuple[int, str]
) -> None:
    def runaway(repetitions: int, *after: tuple[int, str]) -> bool:
        guard = RepeatGuard()
        for token, text in (first, *[again] * repetitions, *after):
            guard.add(token, text)
        return guard.runaway

    assert not runaway(30)
    assert runaway(31)
    assert not runaway(31, (9, "y"))


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
def test_an_answer_ends_at_a_stop_string_or_the_length_limit(
    pieces: list[str], options: dict[str, object], text: str, reason: str, stop: str | None, count: int
) -> None:
    made = []

    def generate() -> Iterator[str]:
        for piece in pieces:
            made.append(piece)
            yield piece

    request = GenerateRequest(prompt="x", options=Options.model_validate(options))
    *texts, done = SerialEngine().answer(request, generate(), prompt_tokens=1)
    assert all(isinstance(event, Text) and event.text for event in texts)
    assert "".join(event.text for event in texts if isinstance(event, Text)) == text
    assert isinstance(done, Done)
    assert (done.reason, done.stop, done.generated_tokens) == (reason, stop, count)
    assert len(made) == count, "no piece is generated after the end"
