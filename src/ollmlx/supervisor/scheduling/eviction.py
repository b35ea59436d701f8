"""Whom to evict so that another model fits. Pure: numbers in, names out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds memory (or was promised it) and is not leaving yet. Sizes in bytes, times monotonic."""

    key: str
    size: int
    idle: bool
    pinned: bool
    settled: bool
    """Loaded: one that is still loading has waiters and cannot be evicted before it served them."""
    last_used: float


@dataclass(frozen=True, slots=True)
class Plan:
    """`victims` make enough room; `now` says that all of them are idle. `possible` is False when nothing helps."""

    victims: tuple[str, ...] = ()
    now: bool = True
    possible: bool = True


def plan(need: int, left: int, residents: Sequence[Resident], most_models: int) -> Plan:
    """Make room for `need` bytes where `left` are free, with at most `most_models` loaded (0: no such limit).

    Idle ones go first, least recently used first; nobody goes whose going is not needed; pinned ones never go.
    """
    order = sorted(
        (one for one in residents if not one.pinned), key=lambda one: (not one.idle, not one.settled, one.last_used)
    )
    chosen: list[Resident] = []
    for candidate in (None, *order):
        if candidate is not None:
            chosen.append(candidate)
        if _enough(need, left, residents, chosen, most_models):
            break
    else:
        return Plan(possible=False)
    for spared in list(reversed(chosen)):
        rest = [one for one in chosen if one is not spared]
        if _enough(need, left, residents, rest, most_models):
            chosen = rest
    return Plan(tuple(one.key for one in chosen), now=all(one.idle and one.settled for one in chosen))


def _enough(need: int, left: int, residents: Sequence[Resident], going: Sequence[Resident], most_models: int) -> bool:
    fits = left + sum(one.size for one in going) >= need
    return fits and (most_models == 0 or len(residents) - len(going) + 1 <= most_models)
