"""Memory of the pool: the limits of a runner, the reservations of all, and the models to evict. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ollmlx.errors import OutOfMemory
from ollmlx.supervisor.clock import MIB, Tuning
from ollmlx.text.quantities import format_size

LARGEST_CACHE_LIMIT = 1024 * MIB
SMALLEST_PROMPT_CACHE = 32 * MIB


@dataclass(frozen=True, slots=True)
class Allowance:
    """The memory that one runner may use, in bytes. `reserved` counts against the budget; it has the `prompt_cache`."""

    reserved: int
    prompt_cache: int
    cache_limit: int
    soft: int
    hard: int


def allowance_for(need: int, prompt_cache: int, budget: int, tuning: Tuning) -> Allowance:
    """Return the limits of a runner that needs so many bytes."""
    reserved = need + prompt_cache
    hard = max(int(reserved * tuning.hard_share), reserved + tuning.slack)
    return Allowance(
        reserved=reserved,
        prompt_cache=prompt_cache,
        cache_limit=min(LARGEST_CACHE_LIMIT, budget // 20),
        soft=int(hard * tuning.soft_share),
        hard=hard,
    )


def prompt_cache_size(wanted: int | None, left: int) -> int:
    """Return the bytes for a prefix cache: as wanted, or (None) a quarter of what is left. Never more than is left."""
    if wanted is None:
        share = left // 4
        return share if share >= SMALLEST_PROMPT_CACHE else 0
    return min(wanted, max(0, left))


@dataclass(slots=True)
class _Reservation:
    size: int
    name: str
    allocated: bool = False
    """The runner may use its memory. Before that, other runners have to exit."""
    releasing: bool = False
    """The runner is being stopped and still uses its memory."""


class MemoryLedger:
    """The reservations of all pool entries. Every load is reserved before its process starts.

    `allocated + releasing` never exceeds the budget, and neither does `allocated + reserved`: the budget is never
    promised twice.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._reservations: dict[str, _Reservation] = {}

    @property
    def in_use(self) -> int:
        """Bytes of the processes that run or are being started."""
        return sum(entry.size for entry in self._reservations.values() if entry.allocated)

    @property
    def left(self) -> int:
        """Bytes that can still be reserved."""
        return self.budget - sum(entry.size for entry in self._reservations.values() if not entry.releasing)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by owner."""
        return {owner: entry.size for owner, entry in self._reservations.items()}

    def reserve(self, owner: str, size: int, name: str) -> None:
        """Reserve memory. The caller has checked `left`."""
        assert owner not in self._reservations
        assert size <= self.left
        self._reservations[owner] = _Reservation(size, name)

    def allocate(self, owner: str) -> bool:
        """Turn a reservation into an allocation. Returns False until the evicted runners have exited."""
        entry = self._reservations[owner]
        entry.allocated = entry.allocated or self.in_use + entry.size <= self.budget
        return entry.allocated

    def release_later(self, owner: str) -> None:
        """Note that the runner is being stopped: its memory can be reserved now and is free when it has exited.

        A reservation that was never allocated is removed at once.
        """
        entry = self._reservations.get(owner)
        if entry is not None and entry.allocated:
            entry.releasing = True
        else:
            self.release(owner)

    def release(self, owner: str) -> None:
        """Remove the reservation of a runner that has exited."""
        self._reservations.pop(owner, None)

    def refusal(self, model: str, need: int, pinned: Collection[str] = ()) -> OutOfMemory:
        """Return the error for a model that cannot fit, with the arithmetic. `pinned`: owners that are not evicted."""
        users = [
            f"{entry.name} ({format_size(entry.size)}{', pinned' if owner in pinned else ''})"
            for owner, entry in self._reservations.items()
        ]
        by = f" by {' and '.join(users)}" if users else ""
        return OutOfMemory(
            f"{model} needs {format_size(need)}, but the memory budget is {format_size(self.budget)} "
            f"with {format_size(sum(self.sizes.values()))} in use{by}",
            code="RUN005",
            hint="use a smaller model, a shorter context (num_ctx), or raise [memory] limit",
        )


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """A model with a reservation that is not being stopped. Size in bytes, `last_used` in monotonic seconds."""

    key: str
    size: int
    idle: bool
    pinned: bool
    loaded: bool
    """A model that is still loading has requests, and cannot be evicted before it has served them."""
    last_used: float


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """The models to evict. `now`: all of them are idle. `possible` is False when no eviction makes enough room."""

    victims: tuple[str, ...] = ()
    now: bool = True
    possible: bool = True


def plan_eviction(need: int, left: int, candidates: Sequence[EvictionCandidate], max_models: int) -> EvictionPlan:
    """Make room for `need` bytes where `left` are free, with at most `max_models` loaded (0: no such limit).

    Idle models go first, the least recently used one before the others. Models that need not go stay, and pinned ones
    always stay.
    """
    order = sorted(
        (one for one in candidates if not one.pinned), key=lambda one: (not one.idle, not one.loaded, one.last_used)
    )
    victims: list[EvictionCandidate] = []
    while not _makes_room(need, left, candidates, victims, max_models):
        if len(victims) == len(order):
            return EvictionPlan(possible=False)
        victims.append(order[len(victims)])
    for spared in list(reversed(victims)):
        rest = [one for one in victims if one is not spared]
        if _makes_room(need, left, candidates, rest, max_models):
            victims = rest
    return EvictionPlan(tuple(one.key for one in victims), now=all(one.idle and one.loaded for one in victims))


def _makes_room(
    need: int, left: int, candidates: Sequence[EvictionCandidate], victims: Sequence[EvictionCandidate], max_models: int
) -> bool:
    fits = left + sum(one.size for one in victims) >= need
    return fits and (max_models == 0 or len(candidates) - len(victims) + 1 <= max_models)
