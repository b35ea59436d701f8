"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Answer = TypeVar("Answer")

INTERVAL = 0.01
HANG_GUARD = 60.0
"""Seconds after which a wait is given up. It bounds a broken test and asserts nothing about speed."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[Answer | None]], timeout: float = HANG_GUARD, *, because: str = ""
) -> Answer: ...


@overload
async def eventually(
    condition: Callable[[], Answer | None], timeout: float = HANG_GUARD, *, because: str = ""
) -> Answer: ...


async def eventually(condition: Callable[[], Any], timeout: float = HANG_GUARD, *, because: str = "") -> Any:
    """The first truthy answer of `condition` (a function, plain or async), asked again until `timeout` seconds passed.

    Raises AssertionError with the last answer. An exception of the condition ends the wait at once.
    """
    deadline = time.monotonic() + timeout
    while True:
        asked = condition()
        answer = await asked if inspect.isawaitable(asked) else asked
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(_never(condition, answer, timeout, because))
        await asyncio.sleep(INTERVAL)


def wait_until(condition: Callable[[], Answer], timeout: float = HANG_GUARD, *, because: str = "") -> Answer:
    """`eventually` for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(_never(condition, answer, timeout, because))
        time.sleep(INTERVAL)
    return answer


def _never(condition: Callable[[], object], answer: object, timeout: float, because: str) -> str:
    what = because or getattr(condition, "__name__", "the condition")
    return f"{what}: not within {timeout:g} s; the last answer was {answer!r}"
