"""One change of a model at a time, over every process that shares the folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ollmlx.storekit.download import storage_error

POLL = 0.1  # seconds between tries; a lock is held for minutes or for milliseconds


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file while inside; waits for another holder, and can be cancelled while it waits."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        await _acquire(lock)
    except OSError as error:
        raise storage_error(error, "cannot write to the models folder") from error
    try:
        yield
    finally:
        lock.release()


async def _acquire(lock: FileLock) -> None:
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:  # an OSError too, so it must be met first
            await asyncio.sleep(POLL)
        else:
            return
