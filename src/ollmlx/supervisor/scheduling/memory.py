"""The memory ledger: every load is reserved before its process exists, so the budget is never promised twice. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from ollmlx.errors import OutOfMemory
from ollmlx.settings import MemorySettings
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_size

MIB = 1024 * 1024
LARGEST_CACHE_LIMIT = 1024 * MIB
SMALLEST_PROMPT_CACHE = 32 * MIB


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one runner may use, in bytes. `reserved` is charged to the budget and includes `prompt_cache`."""

    reserved: int
    prompt_cache: int
    cache_limit: int
    soft: int
    hard: int


def allow(need: int, prompt_cache: int, budget: int, tuning: Tuning) -> Allowance:
    """The limits that follow from a reservation."""
    reserved = need + prompt_cache
    hard = max(int(reserved * tuning.hard_share), reserved + tuning.slack)
    return Allowance(
        reserved=reserved,
        prompt_cache=prompt_cache,
        cache_limit=min(LARGEST_CACHE_LIMIT, budget // 20),
        soft=int(hard * tuning.soft_share),
        hard=hard,
    )


def prompt_cache_share(settings: MemorySettings, asked: int | None, left: int) -> int:
    """Bytes for a runner's prefix cache: what was asked, or a quarter of what is left. Never more than is left."""
    wanted = asked if asked is not None else settings.prompt_cache
    if wanted == "auto":
        wanted = left // 4
        return wanted if wanted >= SMALLEST_PROMPT_CACHE else 0
    return min(wanted, max(0, left))


class Standing(StrEnum):
    """What a reservation stands for."""

    PROMISED = "promised"
    """Room will be there once others have left."""
    HELD = "held"
    LEAVING = "leaving"
    """Held until its process is gone."""


@dataclass(slots=True)
class _Entry:
    amount: int
    standing: Standing
    name: str


class Ledger:
    """Who holds how much of the budget. `held + leaving` never exceeds it; neither does `held + promised`."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._entries: dict[str, _Entry] = {}

    @property
    def in_use(self) -> int:
        """Bytes that living processes (or those being started) hold."""
        return self._sum(Standing.HELD, Standing.LEAVING)

    @property
    def left(self) -> int:
        """Bytes that can still be promised."""
        return self.budget - self._sum(Standing.HELD, Standing.PROMISED)

    def promise(self, owner: str, amount: int, name: str) -> None:
        """Set room aside. The caller has checked `left`."""
        assert owner not in self._entries
        assert amount <= self.left
        self._entries[owner] = _Entry(amount, Standing.PROMISED, name)

    def claim(self, owner: str) -> bool:
        """Turn a promise into a holding. False while those who leave are still there."""
        entry = self._entries[owner]
        if entry.standing is Standing.PROMISED and self.in_use + entry.amount <= self.budget:
            entry.standing = Standing.HELD
        return entry.standing is Standing.HELD

    def leave(self, owner: str) -> None:
        """Its process is being ended: the room may be promised, and is not there yet. A mere promise is taken back."""
        entry = self._entries.get(owner)
        if entry is None:
            return
        if entry.standing is Standing.PROMISED:
            del self._entries[owner]
        else:
            entry.standing = Standing.LEAVING

    def release(self, owner: str) -> None:
        """Its process is gone."""
        self._entries.pop(owner, None)

    def amount(self, owner: str) -> int:
        """Bytes of one owner, 0 without an entry."""
        entry = self._entries.get(owner)
        return entry.amount if entry is not None else 0

    def refusal(self, model: str, need: int, pinned: Collection[str] = ()) -> OutOfMemory:
        """The arithmetic, for a model that cannot fit. `pinned`: owners that would not make room."""
        users = [
            f"{entry.name} ({format_size(entry.amount)}{', pinned' if owner in pinned else ''})"
            for owner, entry in self._entries.items()
        ]
        by = f" by {' and '.join(users)}" if users else ""
        return OutOfMemory(
            f"{model} needs {format_size(need)}, but the memory budget is {format_size(self.budget)} "
            f"with {format_size(self._sum(*Standing) if users else 0)} in use{by}",
            code="RUN005",
            hint="use a smaller model, a shorter context (num_ctx), or raise [memory] limit",
        )

    def _sum(self, *standings: Standing) -> int:
        return sum(entry.amount for entry in self._entries.values() if entry.standing in standings)
