"""Silence is the runner's, never our own sleep."""

from __future__ import annotations

import pytest

from ollmlx.supervisor.runner.progress import ProgressClock


def test_silence_grows_until_something_changes() -> None:
    beat = ProgressClock(gap=10)
    assert [beat.look(now, "same") for now in (0.0, 4.0, 8.0)] == [0.0, 4.0, 8.0]
    assert beat.look(9.0, "other") == 0.0


@pytest.mark.fault(26)
def test_time_in_which_nobody_looked_is_not_silence() -> None:
    beat = ProgressClock(gap=10)
    beat.look(0.0, "same")
    beat.look(5.0, "same")
    assert beat.look(3600.0, "same") == 0.0
    assert beat.look(3605.0, "same") == 5.0


def test_a_restart_begins_anew() -> None:
    beat = ProgressClock(gap=10)
    beat.look(0.0, "same")
    beat.restart(5.0)
    assert beat.look(7.0, "same") == 2.0
