"""Exit statuses: their meaning in words, and what could help."""

from __future__ import annotations

import pytest

from ollmlx.supervisor.runner.failure import Remedy, RunnerFailure


@pytest.mark.parametrize(
    ("code", "words", "remedy", "label"),
    [
        (0, "without being asked", Remedy.RETRY, "exit_0"),
        (1, "exit status 1", Remedy.RETRY, "exit_1"),
        (64, "refused its configuration", Remedy.NONE, "exit_64"),
        (65, "cannot load the model's files", Remedy.NONE, "exit_65"),
        (66, "another version", Remedy.NONE, "exit_66"),
        (70, "exit status 70", Remedy.RETRY, "exit_70"),
        (75, "ran out of memory", Remedy.MAKE_ROOM, "exit_75"),
        (127, "could not be found", Remedy.NONE, "exit_127"),
        (-9, "memory runs out", Remedy.MAKE_ROOM, "SIGKILL"),
        (-11, "SIGSEGV", Remedy.RETRY, "SIGSEGV"),
        (-4, "another processor", Remedy.NONE, "SIGILL"),
        (-15, "SIGTERM", Remedy.RETRY, "SIGTERM"),
        (-99, "signal 99", Remedy.RETRY, "signal 99"),
    ],
)
def test_an_exit_status_has_a_meaning_and_a_remedy(code: int, words: str, remedy: Remedy, label: str) -> None:
    meaning = RunnerFailure.of_exit(code)
    assert words in meaning.text
    assert (meaning.remedy, meaning.label) == (remedy, label)
