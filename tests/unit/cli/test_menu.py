"""The menu of bare `ollmlx`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.cli.conftest import CommandLine

from ollmlx.cli.menu import choose


def answers(*lines: str) -> Callable[[str], str]:
    rest = iter(lines)

    def ask(question: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return ask


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        (["1", "llama3.2"], ("run", ["llama3.2"])),
        (["run llama3.2"], ("run", ["llama3.2"])),
        (["PULL", "qwen3:4b"], ("pull", ["qwen3:4b"])),
        (["9", "4"], ("doctor", [])),
        (["3", "", "help"], ("help", [])),
        ([""], None),
        ([], None),
        (["1"], None),
    ],
)
def test_a_number_or_a_name_leads_to_a_verb(lines: list[str], chosen: tuple[str, list[str]] | None) -> None:
    assert choose(answers(*lines), lambda _: None) == chosen


def test_without_a_terminal_help_is_printed(ollmlx: CommandLine) -> None:
    assert "Number or name" not in ollmlx().out
    assert "ollmlx [OPTION]... VERB" in ollmlx().out
