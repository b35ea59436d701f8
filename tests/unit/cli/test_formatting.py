"""Text for a terminal: tables, times, word wrap."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.cli.formatting import WordWrap, about, ago, cells, parse_time, printable, short_duration, table, until

WORDS = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=60)
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
TEXT = st.text(st.sampled_from("abcdefg    \n日本é"), max_size=300)


def test_columns_are_aligned_and_lines_have_no_space_at_their_end() -> None:
    drawn = table(("NAME", "SIZE"), [("a", "1 GB"), ("longer", "20 MB")])
    assert drawn.splitlines() == ["NAME      SIZE", "a         1 GB", "longer    20 MB"]
    assert table(("NAME", "SIZE"), []) == "NAME    SIZE"


def test_only_the_widest_column_is_shortened() -> None:
    drawn = table(("NAME", "ID"), [("m" * 60, "a" * 12)], width=40)
    assert drawn.splitlines()[1] == "m" * 25 + "…" + "  " + "a" * 12


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), width=st.integers(40, 120))
def test_a_table_fits_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    assert all(cells(line) <= width for line in table(("A", "B", "C"), rows, width).splitlines())


def test_wide_characters_count_twice_and_marks_nothing() -> None:
    assert cells("日本e\u0301") == 5


DURATIONS = [
    (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (119, "About a minute"),
    (299, "4 minutes"), (3600, "About an hour"), (2 * 3600, "2 hours"), (86400, "1 day"), (3 * 86400, "3 days"),
    (8 * 86400, "1 week"), (45 * 86400, "1 month"), (800 * 86400, "2 years"),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "printed"), DURATIONS)
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, printed: str) -> None:
    assert about(seconds) == printed


def test_the_expiry_of_a_model_is_in_some_minutes_never_or_now() -> None:
    assert until((NOW + timedelta(minutes=4, seconds=30)).isoformat(), NOW) == "4 minutes from now"
    assert until("2318-01-01T00:00:00Z", NOW) == "Forever"
    assert until("", NOW) == "Forever"
    assert until((NOW - timedelta(seconds=1)).isoformat(), NOW) == "Stopping..."


def test_a_past_time_is_shown_relative_to_now() -> None:
    assert ago((NOW - timedelta(days=2)).isoformat(), NOW) == "2 days ago"
    assert ago((NOW + timedelta(hours=3)).isoformat(), NOW) == "3 hours from now"
    assert ago("", NOW) == "Never"


def test_nine_fractional_digits_and_any_zone_are_read() -> None:
    assert parse_time("2026-05-01T14:00:00.123456789+02:00") == NOW.replace(microsecond=123456)


@pytest.mark.parametrize(
    ("nanoseconds", "printed"),
    [(0, "0s"), (35_000, "35µs"), (812_400_000, "812.4ms"), (2_500_000_000, "2.5s"), (62_300_000_000, "1m2.3s")],
)
def test_measured_durations_are_short(nanoseconds: int, printed: str) -> None:
    assert short_duration(nanoseconds) == printed


def screen(written: str) -> list[str]:
    """Return what a terminal shows, with erased words removed."""
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


def test_a_word_that_does_not_fit_moves_to_the_next_line_and_is_broken_if_it_is_longer_than_a_line() -> None:
    assert screen(wrapped(["hello wor", "ld again"], 12)) == ["hello world", "again"]
    assert screen(wrapped(["hello wonderful"], 12)) == ["hello ", "wonderful"]
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
def test_wrapping_does_not_depend_on_the_pieces(text: str, width: int) -> None:
    assert wrapped(list(text), width) == wrapped([text], width)


def test_a_model_cannot_send_escape_sequences_to_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9b1m") == "a\\x1b[2Jb\\x07\n\tc\\x9b1m"
