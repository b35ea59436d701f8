"""The ledger never reserves the budget twice, and no model is evicted without need."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.supervisor.toy_runners import toy_failure

from ollmlx.errors import OllmlxError
from ollmlx.supervisor.clock import MIB, Tuning
from ollmlx.supervisor.runner.failure import Remedy
from ollmlx.supervisor.scheduling.memory import (
    EvictionCandidate,
    EvictionPlan,
    MemoryLedger,
    allowance_for,
    plan_eviction,
    prompt_cache_size,
)
from ollmlx.supervisor.scheduling.restart import (
    CRASH_LOOP,
    HEALTHY_AFTER,
    INCURABLE_PAUSE,
    LONGEST_PAUSE,
    FailureHistory,
    pause_after,
)

SIZES = st.integers(1, 60)


@example([("reserve", 1, 55), ("stop", 1, 1), ("reserve", 0, 46), ("stop", 0, 1)])
@given(st.lists(st.tuples(st.sampled_from(["reserve", "allocate", "stop", "release"]), st.integers(0, 5), SIZES)))
def test_running_processes_never_hold_more_than_the_budget(steps: list[tuple[str, int, int]]) -> None:
    ledger = MemoryLedger(100)
    known: set[str] = set()
    for action, number, size in steps:
        owner = str(number)
        if action == "reserve" and owner not in known and size <= ledger.left:
            ledger.reserve(owner, size, owner)
            known.add(owner)
        elif action == "allocate" and ledger.sizes.get(owner):
            ledger.allocate(owner)
        elif action == "stop":
            ledger.release_later(owner)
            if not ledger.sizes.get(owner):
                known.discard(owner)
        elif action == "release":
            ledger.release(owner)
            known.discard(owner)
        assert 0 <= ledger.in_use <= 100
        assert ledger.left >= 0


def test_limits_follow_from_the_reservation() -> None:
    allowance = allowance_for(100 * MIB, 20 * MIB, 1000 * MIB, Tuning(hard_share=2.0, soft_share=0.5, slack=0))
    assert (allowance.reserved, allowance.hard, allowance.soft) == (120 * MIB, 240 * MIB, 120 * MIB)
    assert allowance_for(MIB, 0, 1000 * MIB, Tuning()).hard == MIB + Tuning().slack


def test_the_prefix_cache_never_takes_more_than_is_left() -> None:
    assert prompt_cache_size(None, 400 * MIB) == 100 * MIB
    assert prompt_cache_size(None, 40 * MIB) == 0
    assert prompt_cache_size(500 * MIB, 400 * MIB) == 400 * MIB
    assert prompt_cache_size(500 * MIB, -5) == 0


CANDIDATES = st.lists(
    st.builds(
        EvictionCandidate,
        key=st.uuids().map(str),
        size=SIZES,
        idle=st.booleans(),
        pinned=st.booleans(),
        loaded=st.booleans(),
        last_used=st.floats(0, 100),
    ),
    max_size=6,
)


@given(st.integers(1, 200), st.integers(0, 50), CANDIDATES, st.integers(0, 4))
def test_a_plan_makes_enough_room_and_evicts_no_model_without_need(
    need: int, left: int, there: list[EvictionCandidate], most: int
) -> None:
    made = plan_eviction(need, left, there, most)
    going = [one for one in there if one.key in made.victims]

    def enough(gone: list[EvictionCandidate]) -> bool:
        fits = left + sum(one.size for one in gone) >= need
        return fits and (not most or len(there) - len(gone) + 1 <= most)

    movable = [one for one in there if not one.pinned]
    assert made.possible == enough(movable)
    if made.possible:
        assert enough(going)
        assert not any(one.pinned for one in going)
        assert all(not enough([one for one in going if one is not spared]) for spared in going)
        assert made.now == all(one.idle and one.loaded for one in going)


def test_the_least_recently_used_is_evicted_first_and_idle_before_busy() -> None:
    def one(key: str, last_used: float, *, idle: bool = True) -> EvictionCandidate:
        return EvictionCandidate(key, 10, idle=idle, pinned=False, loaded=True, last_used=last_used)

    there = [one("new", 9), one("busy", 1, idle=False), one("old", 2)]
    assert plan_eviction(10, 0, there, 0) == EvictionPlan(("old",), now=True)
    assert plan_eviction(25, 0, there, 0) == EvictionPlan(("old", "new", "busy"), now=False)
    assert plan_eviction(10, 10, there, 0) == EvictionPlan()


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
