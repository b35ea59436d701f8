"""Tables as plain text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ollmlx.cli.table import cells, table

WORDS = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=60)


def test_columns_are_aligned_and_lines_have_no_space_at_their_end() -> None:
    drawn = table(("NAME", "SIZE"), [("a", "1 GB"), ("longer", "20 MB")])
    assert drawn.splitlines() == ["NAME      SIZE", "a         1 GB", "longer    20 MB"]


def test_no_rows_leave_the_header() -> None:
    assert table(("NAME", "SIZE"), []) == "NAME    SIZE"


def test_only_the_widest_column_is_shortened() -> None:
    drawn = table(("NAME", "ID"), [("m" * 60, "a" * 12)], width=40)
    assert drawn.splitlines()[1] == "m" * 25 + "…" + "  " + "a" * 12


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), width=st.integers(40, 120))
def test_a_table_fits_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    assert all(cells(line) <= width for line in table(("A", "B", "C"), rows, width).splitlines())


def test_wide_characters_count_twice_and_marks_nothing() -> None:
    assert cells("日本e\u0301") == 5
