"""Restarts after failures: the pause, crash loops and their refusal, at times that the test passes in."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import OllmlxError
from ollmlx.supervisor.runner.failure import Remedy, RunnerFailure
from ollmlx.supervisor.scheduling.restart import HEALTHY_AFTER, LONGEST_PAUSE, FailureHistory, pause_after
from ollmlx.supervisor.tuning import Tuning
from ollmlx.testing.toy_runners import toy_failure

TUNING = Tuning(restart_limit=3, restart_window=100, restart_pause=50)


class LongestJitter(random.Random):
    """Jitter without chance: always the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


def history() -> FailureHistory:
    return FailureHistory("parrot", TUNING, LongestJitter())


def fail(failed: FailureHistory, now: float, *, remedy: Remedy = Remedy.RETRY, **fields: Any) -> None:
    failure: RunnerFailure = toy_failure(remedy=remedy, loading=not fields)
    failed.add(now, failure, **{"answered": False, "healthy_for": 0.0, **fields})


@given(st.integers(0, 1000), st.integers(0, 2**32))
def test_the_pause_is_bounded_and_absent_after_the_first_failure(failures: int, seed: int) -> None:
    pause = pause_after(failures, random.Random(seed))
    assert 0 <= pause <= LONGEST_PAUSE
    assert pause == 0 or failures >= 2


@pytest.mark.parametrize(
    ("healthy_for", "pauses"),
    [
        (5.0, [0, 0.5, 1, 2, 4, 8, 16, 30, 30]),
        (HEALTHY_AFTER, [0, 0, 0]),
    ],
    ids=["exits soon after its load", "exits after a minute of health"],
)
def test_a_runner_that_has_answered_is_replaced_after_a_growing_pause(healthy_for: float, pauses: list[float]) -> None:
    failed, now, seen = history(), 0.0, []
    for _ in pauses:
        now += healthy_for
        fail(failed, now, answered=True, healthy_for=healthy_for)
        seen.append(failed.pause(now))
        now += seen[-1]
    assert seen == pauses


def test_a_crash_loop_is_refused_and_then_tried_once_for_each_pause() -> None:
    failed = history()
    for second in (1.0, 2.0):
        fail(failed, second)
        assert failed.pause(second) <= 1
    fail(failed, 3.0)
    with pytest.raises(OllmlxError, match="failed 3 times within 1m40s; it is tried again in 49s") as refused:
        failed.pause(4.0)
    assert refused.value.retry_after == 49.0
    assert failed.pause(60.0) == 0
    fail(failed, 60.0)
    with pytest.raises(OllmlxError):
        failed.pause(61.0)


@pytest.mark.parametrize("between", ["an answer", "an exit after an answer", "nothing for longer than the window"])
def test_failures_are_no_crash_loop_with_this_between_them(between: str) -> None:
    failed, now = history(), 0.0
    for _ in range(6):
        now += 10
        fail(failed, now)
        failed.pause(now)
        if between == "an answer":
            failed.answer()
        elif between == "an exit after an answer":
            fail(failed, now + 1, answered=True, healthy_for=1.0)
        else:
            now += TUNING.restart_window


def test_a_failure_that_no_repetition_cures_is_refused_at_once() -> None:
    failed = history()
    fail(failed, 1.0, remedy=Remedy.NONE)
    with pytest.raises(OllmlxError, match="was killed by SIGSEGV while loading") as refused:
        failed.pause(2.0)
    assert refused.value.hint == "fix the cause, then: ollmlx stop parrot"
    fail(failed, 60.0, remedy=Remedy.NONE, answered=True, healthy_for=10.0)
    assert failed.pause(60.0) <= 1, "a runner that has answered is replaced"
