"""Background tasks that must go on: one that fails is logged and started again."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)
PAUSES = (1.0, 5.0, 30.0)
"""Seconds before a failed task is started again; the last one repeats."""


async def keep_running(
    name: str, work: Callable[[], Awaitable[None]], sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Run a task until it returns. Each time it fails, log the failure, wait, and run it again."""
    for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
        try:
            await work()
        except Exception:
            logger.exception("%s failed; it starts again in %g s", name, pause)
            await sleep(pause)
        else:
            return
