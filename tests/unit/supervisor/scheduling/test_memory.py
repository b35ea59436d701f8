"""The ledger never reserves the budget twice, and no model is evicted without need."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ollmlx.supervisor.clock import MIB, Tuning
from ollmlx.supervisor.scheduling.memory import (
    EvictionCandidate,
    EvictionPlan,
    MemoryLedger,
    allowance_for,
    plan_eviction,
    prompt_cache_size,
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
