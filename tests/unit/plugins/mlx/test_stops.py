"""Stop strings are found wherever the pieces are cut, and no part of one is ever shown."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ollmlx_mlx.engine.text.stops import StopFilter

TEXT = st.text(alphabet="ab<|", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<|", min_size=1, max_size=4), max_size=3)


def through(text: str, cuts: list[int], stops: list[str]) -> tuple[str, str | None]:
    filtered = StopFilter(stops)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(filtered.feed(text[a:b]) for a, b in pairwise(edges))
    return shown + filtered.flush(), filtered.hit


@given(TEXT, st.lists(st.integers(0, 30), max_size=6), STOPS)
def test_the_text_ends_right_before_the_first_stop_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    shown, hit = through(text, cuts, stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if hit is None:
        assert shown == text
    else:
        assert text.startswith(shown + hit)


def test_text_that_only_looked_like_a_stop_is_shown_as_soon_as_that_is_certain() -> None:
    filtered = StopFilter(["<|end|>"])
    assert filtered.feed("so <|e") == "so "
    assert filtered.feed("at") == "<|eat"
    assert filtered.hit is None


def test_nothing_is_shown_after_a_stop() -> None:
    filtered = StopFilter(["STOP"])
    assert filtered.feed("one STOP two") == "one "
    assert filtered.feed("three") == ""
    assert filtered.hit == "STOP"


def test_an_empty_stop_string_stops_nothing() -> None:
    assert through("abc", [], [""]) == ("abc", None)
