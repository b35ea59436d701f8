"""The shared cache of a runner: requests wait for room in it, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TokenPool:
    """`size` tokens that running requests share. Runs on one event loop."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def claim(self, tokens: int) -> AsyncIterator[None]:
        """Wait until `tokens` are free, and hold them. A claim for more than the pool has takes all of it."""
        tokens = min(tokens, self.size)
        await self._take(tokens)
        try:
            yield
        finally:
            self.free += tokens
            self._wake()

    async def _take(self, tokens: int) -> None:
        if not self._waiting and tokens <= self.free:
            self.free -= tokens
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (tokens, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the tokens came at the moment of the cancellation
                self.free += tokens
            else:
                self._waiting.remove(entry)
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            tokens, turn = self._waiting.popleft()
            self.free -= tokens
            turn.set_result(None)
