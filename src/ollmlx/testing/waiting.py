"""Waiting for a condition, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Result = TypeVar("Result")

INTERVAL = 0.01
HANG_GUARD = 60.0
"""Seconds after which a wait is given up. It bounds a broken test and asserts nothing about speed."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[Result | None]], timeout: float = HANG_GUARD, *, because: str = ""
) -> Result: ...


@overload
async def eventually(
    condition: Callable[[], Result | None], timeout: float = HANG_GUARD, *, because: str = ""
) -> Result: ...


async def eventually(condition: Callable[[], Any], timeout: float = HANG_GUARD, *, because: str = "") -> Any:
    """Call `condition`, a plain or async function, until its result is truthy, and return that result.

    Raises AssertionError with the last result after `timeout` seconds. An exception of the condition is not caught.
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


def wait_until(condition: Callable[[], Result], timeout: float = HANG_GUARD, *, because: str = "") -> Result:
    """Do the same as `eventually`, without an event loop."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(_never(condition, answer, timeout, because))
        time.sleep(INTERVAL)
    return answer


def _never(condition: Callable[[], object], answer: object, timeout: float, because: str) -> str:
    what = because or getattr(condition, "__name__", "the condition")
    return f"{what}: not within {timeout:g} s; the last result was {answer!r}"
