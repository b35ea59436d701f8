"""The choice of llama.cpp's slots where prompt caches have owners: each slot holds what its last request computed.

llama.cpp chooses by the prompts alone, so that a request could find, and count, what another owner's computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

SIMILAR: Final = 0.1
"""The share of a prompt that a slot must hold to be preferred to the one that was used the longest time ago."""


@dataclass(eq=False)
class Slot:
    """One slot. `owner` is None while it is not known whose tokens it holds; `reuse`: its request may start from them.

    `waiting`: llama.cpp has not begun its request.
    """

    index: int
    owner: str | None = None
    tokens: Sequence[int] = ()
    used: int = 0
    taken: bool = False
    waiting: bool = False
    reuse: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request to llama.cpp."""
        return {"id_slot": self.index, "cache_prompt": self.reuse}

    def shared(self, owner: str, tokens: Sequence[int]) -> float:
        """Return the share of a prompt that the owner can reuse here."""
        if self.owner != owner:
            return 0.0
        pairs = zip(self.tokens, tokens, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / max(1, len(tokens))


class Slots:
    """All slots of one server. Used on the event loop."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(index) for index in range(count)]
        self._changed = asyncio.Condition()
        self._embedding = 0
        self._clock = 0

    @asynccontextmanager
    async def take(self, owner: str, tokens: Sequence[int]) -> AsyncIterator[Slot]:
        """Hold a free slot: one that holds the beginning of the prompt, or the one that was used least recently."""
        async with self._changed:
            await self._changed.wait_for(lambda: any(not slot.taken for slot in self._slots))
            free = [slot for slot in self._slots if not slot.taken]
            best = max(free, key=lambda slot: slot.shared(owner, tokens))
            if best.shared(owner, tokens) < SIMILAR:
                best = min(free, key=lambda slot: slot.used)
            best.reuse = best.owner == owner and not self._embedding
            best.taken = best.waiting = True
            best.owner = None
            self._clock += 1
            best.used = self._clock
        try:
            yield best
        finally:
            best.taken = best.waiting = False
            if self._embedding:
                best.owner = None
            await self._notify()

    async def begin(self, slot: Slot, owner: str, tokens: Sequence[int]) -> None:
        """Note that llama.cpp has sent a record: from now on the slot holds this request's tokens only."""
        if slot.waiting:
            slot.owner, slot.tokens, slot.waiting = owner, tokens, False
            await self._notify()

    @asynccontextmanager
    async def embedding(self) -> AsyncIterator[None]:
        """Hold while texts are embedded: llama.cpp chooses the slots itself, and leaves the texts' tokens there."""
        async with self._changed:
            await self._changed.wait_for(lambda: not any(slot.waiting and slot.reuse for slot in self._slots))
            self._embedding += 1
        try:
            yield
        finally:
            self._embedding -= 1
            for slot in self._slots:
                slot.owner = None

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
