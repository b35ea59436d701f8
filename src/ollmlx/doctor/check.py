"""Makes a function a check, with a name, a group and the codes that it can report; and makes findings."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ollmlx.doctor.context import CheckContext
from ollmlx.errors.findings import Finding, Severity

COMMAND = re.compile(r"(ollmlx|pip|brew|export|sudo|python\S*|hf) ")
"""The beginning of a hint that is a command."""

CheckFunction = Callable[[CheckContext], Iterable[Finding] | Awaitable[Iterable[Finding]]]
found = Finding.of


@dataclass(frozen=True)
class FunctionCheck:
    """A check made from a function. It runs in a thread of its own, so it may read files and block."""

    name: str
    group: str
    codes: tuple[str, ...]
    function: CheckFunction

    async def run(self, context: Any) -> Sequence[Finding]:
        """Return the findings of the function."""
        if inspect.iscoroutinefunction(self.function):
            return list(await self.function(context))
        return await asyncio.to_thread(lambda: list(self.function(context)))  # type: ignore[arg-type] # not async


def check(name: str, group: str, *codes: str) -> Callable[[CheckFunction], FunctionCheck]:
    """Make a function a check."""
    return lambda function: FunctionCheck(name, group, codes, function)


def remedy(hint: str | None) -> tuple[str, ...]:
    """Return an error's hint as a command; nothing if it is a sentence."""
    return (hint,) if hint and COMMAND.match(hint) else ()


def noted(code: str, title: str) -> Finding:
    """Return a note about something that works. `code`: what would be reported if it did not."""
    return found(code, title, severity=Severity.OK)


def skipped(code: str, title: str) -> Finding:
    """Return a note about something that could not be checked. `code`: the first code it might have led to."""
    return found(code, title, severity=Severity.SKIPPED)
