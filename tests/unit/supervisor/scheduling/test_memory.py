"""The ledger never promises the budget twice; the plan evicts nobody in vain."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ollmlx.settings import MemorySettings
from ollmlx.supervisor.scheduling.eviction import Plan, Resident, plan
from ollmlx.supervisor.scheduling.memory import MIB, Ledger, allow, prompt_cache_share
from ollmlx.supervisor.tuning import Tuning

SIZES = st.integers(1, 60)


@example([("promise", 1, 55), ("leave", 1, 1), ("promise", 0, 46), ("leave", 0, 1)])
@given(st.lists(st.tuples(st.sampled_from(["promise", "claim", "leave", "release"]), st.integers(0, 5), SIZES)))
def test_living_processes_never_hold_more_than_the_budget(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(100)
    known: set[str] = set()
    for what, number, size in steps:
        owner = str(number)
        if what == "promise" and owner not in known and size <= ledger.left:
            ledger.promise(owner, size, owner)
            known.add(owner)
        elif what == "claim" and ledger.amount(owner):
            ledger.claim(owner)
        elif what == "leave":
            ledger.leave(owner)
            if not ledger.amount(owner):
                known.discard(owner)
        elif what == "release":
            ledger.release(owner)
            known.discard(owner)
        assert 0 <= ledger.in_use <= 100
        assert ledger.left >= 0


def test_a_promise_is_kept_only_when_the_one_that_leaves_is_gone() -> None:
    ledger = Ledger(100)
    ledger.promise("a", 80, "a")
    assert ledger.claim("a")
    ledger.leave("a")
    ledger.promise("b", 50, "b")
    assert not ledger.claim("b")
    ledger.release("a")
    assert ledger.claim("b")


def test_a_promise_that_is_given_up_holds_nobody() -> None:
    ledger = Ledger(100)
    ledger.promise("a", 80, "a")
    ledger.leave("a")
    ledger.promise("b", 50, "b")
    assert ledger.claim("b")
    ledger.release("a")
    assert ledger.in_use == 50


def test_a_refusal_shows_the_arithmetic() -> None:
    ledger = Ledger(8_000_000_000)
    ledger.promise("1", 5_000_000_000, "llama3")
    message = ledger.refusal("qwen3", 20_000_000_000).message
    assert message == "qwen3 needs 20 GB, but the memory budget is 8.0 GB with 5.0 GB in use by llama3 (5.0 GB)"


def test_limits_follow_from_the_reservation() -> None:
    allowance = allow(100 * MIB, 20 * MIB, 1000 * MIB, Tuning(hard_share=2.0, soft_share=0.5, slack=0))
    assert (allowance.reserved, allowance.hard, allowance.soft) == (120 * MIB, 240 * MIB, 120 * MIB)
    assert allow(MIB, 0, 1000 * MIB, Tuning()).hard == MIB + Tuning().slack


def test_the_prefix_cache_never_takes_more_than_is_left() -> None:
    settings = MemorySettings()
    assert prompt_cache_share(settings, None, 400 * MIB) == 100 * MIB
    assert prompt_cache_share(settings, None, 40 * MIB) == 0
    assert prompt_cache_share(settings, 500 * MIB, 400 * MIB) == 400 * MIB
    assert prompt_cache_share(settings, 500 * MIB, -5) == 0


RESIDENTS = st.lists(
    st.builds(
        Resident,
        key=st.uuids().map(str),
        size=SIZES,
        idle=st.booleans(),
        pinned=st.booleans(),
        settled=st.booleans(),
        last_used=st.floats(0, 100),
    ),
    max_size=6,
)


@given(st.integers(1, 200), st.integers(0, 50), RESIDENTS, st.integers(0, 4))
def test_a_plan_makes_enough_room_with_nobody_in_vain(need: int, left: int, there: list[Resident], most: int) -> None:
    made = plan(need, left, there, most)
    going = [one for one in there if one.key in made.victims]

    def enough(gone: list[Resident]) -> bool:
        fits = left + sum(one.size for one in gone) >= need
        return fits and (not most or len(there) - len(gone) + 1 <= most)

    movable = [one for one in there if not one.pinned]
    assert made.possible == enough(movable)
    if made.possible:
        assert enough(going)
        assert not any(one.pinned for one in going)
        assert all(not enough([one for one in going if one is not spared]) for spared in going)
        assert made.now == all(one.idle and one.settled for one in going)


def test_the_least_recently_used_goes_first_and_idle_before_busy() -> None:
    def one(key: str, last_used: float, *, idle: bool = True) -> Resident:
        return Resident(key, 10, idle=idle, pinned=False, settled=True, last_used=last_used)

    there = [one("new", 9), one("busy", 1, idle=False), one("old", 2)]
    assert plan(10, 0, there, 0) == Plan(("old",), now=True)
    assert plan(25, 0, there, 0) == Plan(("old", "new", "busy"), now=False)
    assert plan(10, 10, there, 0) == Plan()
