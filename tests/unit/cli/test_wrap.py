"""Word wrap for text that arrives piece by piece."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ollmlx.cli.table import cells
from ollmlx.cli.wrap import WordWrap, printable

TEXT = st.text(st.sampled_from("abcdefg    \n日本é"), max_size=300)


def screen(written: str) -> list[str]:
    """What a terminal shows: the words that were taken back are gone."""
    lines = [""]
    for piece in re.findall(r"\x1b\[\d+D\x1b\[K|\n|[^\x1b\n]+", written):
        if piece == "\n":
            lines.append("")
        elif piece.startswith("\x1b"):
            columns = int(piece[2 : piece.index("D")])
            while columns > 0:
                columns -= cells(lines[-1][-1])
                lines[-1] = lines[-1][:-1]
        else:
            lines[-1] += piece
    return lines


def wrapped(pieces: list[str], width: int | None) -> str:
    wrap = WordWrap(width)
    return "".join(wrap.feed(piece) for piece in pieces)


def test_a_word_that_does_not_fit_moves_to_the_next_line() -> None:
    assert screen(wrapped(["hello wor", "ld again"], 12)) == ["hello world", "again"]
    assert screen(wrapped(["hello wonderful"], 12)) == ["hello ", "wonderful"]


def test_a_word_longer_than_the_line_is_broken() -> None:
    assert screen(wrapped(["a" * 25], 12)) == ["a" * 11, "a" * 11, "aaa"]


def test_without_a_width_text_is_left_alone() -> None:
    assert wrapped(["a b\n", "c"], None) == "a b\nc"


@given(text=TEXT, width=st.integers(12, 60))
def test_no_line_is_wider_than_the_terminal(text: str, width: int) -> None:
    assert all(cells(line) < width for line in screen(wrapped([text], width)))


@given(text=TEXT, width=st.integers(12, 60))
def test_wrapping_changes_nothing_but_white_space(text: str, width: int) -> None:
    assert "".join("".join(screen(wrapped([text], width))).split()) == "".join(text.split())


@given(text=TEXT, width=st.integers(12, 60))
def test_pieces_make_no_difference(text: str, width: int) -> None:
    assert wrapped(list(text), width) == wrapped([text], width)


def test_a_model_cannot_send_escape_sequences_to_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9b1m") == "a[2Jb\n\tc1m"
