"""Restarts after failures: the pause, crash loops and their refusal, at times that the test passes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.supervisor.toy_runners import toy_failure

from ollmlx.errors import OllmlxError
from ollmlx.supervisor.runner.failure import Remedy
from ollmlx.supervisor.scheduling.restart import (
    CRASH_LOOP,
    HEALTHY_AFTER,
    INCURABLE_PAUSE,
    LONGEST_PAUSE,
    FailureHistory,
    pause_after,
)

LOADING = toy_failure(loading=True)


@given(st.integers(0, 1000))
def test_the_pause_is_bounded_and_absent_after_the_first_failure(failures: int) -> None:
    assert 0 <= pause_after(failures) <= min(LONGEST_PAUSE, pause_after(failures + 1))
    assert (pause_after(failures) == 0) is (failures < 2)


@pytest.mark.parametrize(
    ("healthy_for", "pauses"),
    [
        (5.0, [0, 0.5, 1, 2, 4, 8, 16, 30, 30]),
        (HEALTHY_AFTER, [0, 0, 0]),
    ],
    ids=["exits soon after its load", "exits after a minute of health"],
)
def test_a_runner_that_has_answered_is_replaced_after_a_growing_pause(healthy_for: float, pauses: list[float]) -> None:
    failed, now, seen = FailureHistory(), 0.0, []
    for _ in pauses:
        now += healthy_for
        failed.add(now, toy_failure(), answered=True, healthy_for=healthy_for)
        seen.append(failed.pause(now, "parrot"))
        now += seen[-1]
    assert seen == pauses


def test_a_crash_loop_is_refused_for_a_pause_that_grows_to_half_a_minute() -> None:
    failed, now, waits = FailureHistory(), 0.0, []
    for number in range(1, 11):
        failed.add(now, LOADING)
        if number < CRASH_LOOP:
            now += failed.pause(now, "parrot")
            continue
        with pytest.raises(OllmlxError, match=rf"failed {number} times before .*; it is tried again in ") as refused:
            failed.pause(now, "parrot")
        assert refused.value.retry_after is not None
        waits.append(refused.value.retry_after)
        now += waits[-1]
        assert failed.pause(now, "parrot") == 0, "one start is tried"
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("answered_exit", [False, True], ids=["an answer", "an exit after an answer"])
def test_failures_are_no_crash_loop_with_an_answer_between_them(answered_exit: bool) -> None:
    failed = FailureHistory()
    for now in range(6):
        failed.add(now, LOADING)
        failed.pause(now, "parrot")
        if answered_exit:
            failed.add(now, toy_failure(), answered=True, healthy_for=1.0)
        else:
            failed.unanswered = 0


def test_a_failure_that_no_repetition_cures_is_refused_at_once() -> None:
    failed = FailureHistory()
    failed.add(1.0, toy_failure(remedy=Remedy.NONE, loading=True))
    with pytest.raises(OllmlxError, match="was killed by SIGSEGV while loading") as refused:
        failed.pause(2.0, "parrot")
    assert (refused.value.hint, refused.value.retry_after) == (
        "fix the cause, then: ollmlx stop parrot",
        INCURABLE_PAUSE - 1,
    )
    failed.add(60.0, toy_failure(remedy=Remedy.NONE), answered=True, healthy_for=10.0)
    assert failed.pause(60.0, "parrot") <= 1, "a runner that has answered is replaced"
