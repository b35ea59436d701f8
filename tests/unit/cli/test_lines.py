"""From typed lines to prompts and commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.cli.chat.loop import ChatInput, LineReader, is_command


def typed(*lines: str) -> list[ChatInput]:
    reader = LineReader()
    return [entry for line in lines if (entry := reader.feed(line)) is not None]


def test_a_line_is_a_prompt_and_blank_lines_are_nothing() -> None:
    assert typed("  why? ", "", "   ") == [ChatInput("why?")]


def test_a_line_with_a_slash_is_a_command() -> None:
    assert typed("/bye") == [ChatInput("/bye", command=True)]


@pytest.mark.parametrize("line", ["/usr/bin is what?", "/etc/passwd", "1/2", "a /bye", ""])
def test_a_path_is_a_prompt(line: str) -> None:
    assert not is_command(line)


def test_three_quotes_open_a_block_and_close_it() -> None:
    assert typed('"""first', "second", 'third"""', "next") == [ChatInput("first\nsecond\nthird"), ChatInput("next")]


def test_a_block_may_be_one_line() -> None:
    assert typed('"""one line"""') == [ChatInput("one line")]


def test_what_is_inside_a_block_is_never_a_command() -> None:
    assert typed('"""', "/bye", '"""') == [ChatInput("\n/bye\n")]


def test_a_system_message_may_be_a_block() -> None:
    assert typed('/set system """You', 'rhyme."""') == [ChatInput("/set system You\nrhyme.", command=True)]


def test_a_block_that_was_begun_can_be_dropped() -> None:
    reader = LineReader()
    reader.feed('"""begun')
    before = reader.open
    reader.drop()
    assert (before, reader.open) == (True, False)
    assert reader.feed("plain") == ChatInput("plain")


@given(st.lists(st.text(st.sampled_from('ab/ "'), max_size=8), max_size=6))
def test_a_block_gives_back_its_lines(lines: list[str]) -> None:
    inside = [line for line in lines if '"""' not in line and not line.rstrip().endswith('"')]
    assert typed('"""', *inside, '"""') == [ChatInput("\n".join(["", *inside, ""]))]
