"""The choice of llama.cpp's slots: each holds what its last request computed.

llama.cpp would choose by the prompts alone, so that a request could find, and count, what another owner's computed, and
nobody could know into which slot a beginning has to be copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

Prompt = Sequence[int] | str

SIMILAR: Final = 0.1
"""The share of a prompt that a slot must hold to be preferred to the one that was used the longest time ago."""


@dataclass(eq=False)
class Slot:
    """One slot. `owner` is None while it is not known whose tokens it holds; `reuse`: its request may start from them.

    `tokens`: the prompt that it holds, ids or text; `held`: how much of its request's prompt that was;
    `waiting`: llama.cpp has not begun its request.
    """

    index: int
    owner: str | None = None
    tokens: Prompt = ()
    held: int = 0
    used: int = 0
    taken: bool = False
    waiting: bool = False
    reuse: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request to llama.cpp."""
        return {"id_slot": self.index, "cache_prompt": self.reuse}

    def shared(self, owner: str, tokens: Prompt) -> int:
        """Return how much of a prompt the owner can reuse here."""
        return common_length(self.tokens, tokens) if self.owner == owner else 0


class Slots:
    """All slots of one server. `owned`: prompt caches have owners. `saves`: llama.cpp saves in memory what a slot loses
    to another prompt, and finds it again; not with owners. Used on the event loop.
    """

    def __init__(self, count: int, *, owned: bool, saves: bool = False) -> None:
        self.owned = owned
        self._saves = saves and not owned
        self._slots = [Slot(index) for index in range(count)]
        self._changed = asyncio.Condition()
        self._embedding = 0
        self._clock = 0

    @asynccontextmanager
    async def take(self, owner: str, tokens: Prompt) -> AsyncIterator[Slot]:
        """Hold a free slot: one that holds the beginning of the prompt, or the one that was used least recently.

        An unused one stays empty while what another holds can be saved: attention looks at all cells of a shared cache.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: any(not slot.taken for slot in self._slots))
            free = [slot for slot in self._slots if not slot.taken]
            best = max(free, key=lambda slot: slot.shared(owner, tokens))
            if best.shared(owner, tokens) < SIMILAR * len(tokens):
                best = min(free, key=lambda slot: (self._saves and not slot.used, slot.used))
            best.held = best.shared(owner, tokens)
            # Without owners what is in the caches may be anybody's, and belongs to everybody who has none.
            best.reuse = (best.owner == owner and not self._embedding) if self.owned else not owner
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

    async def begin(self, slot: Slot, owner: str, tokens: Prompt) -> None:
        """Note that llama.cpp has sent a record: from now on the slot holds this request's tokens only."""
        if slot.waiting:
            slot.owner, slot.tokens, slot.waiting = owner, tokens, False
            await self._notify()

    @asynccontextmanager
    async def embedding(self) -> AsyncIterator[None]:
        """Hold while texts are embedded: llama.cpp chooses the slots itself, and leaves the texts' tokens there."""
        async with self._changed:
            if self.owned:
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


def common_length(one: Prompt, other: Prompt) -> int:
    """Return the length of the beginning that two prompts share. Compares halves: a prompt has thousands of tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
