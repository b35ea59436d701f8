"""How ollmlx's own checks are written: a function, its name, its group and the codes it can report."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ollmlx.doctor.context import CheckContext
from ollmlx.errors.codes import CODES
from ollmlx.errors.findings import Finding, Severity

COMMAND = re.compile(r"(ollmlx|pip|brew|export|sudo|python\S*|hf) ")
"""How a line that can be typed begins."""

Look = Callable[[CheckContext], Iterable[Finding] | Awaitable[Iterable[Finding]]]


@dataclass(frozen=True)
class FunctionCheck:
    """A check made of a function. It runs in a thread of its own, so it may read files and wait."""

    name: str
    group: str
    codes: tuple[str, ...]
    look: Look

    async def run(self, world: Any) -> Sequence[Finding]:
        """What the function finds."""
        if inspect.iscoroutinefunction(self.look):
            return list(await self.look(world))
        return await asyncio.to_thread(lambda: list(self.look(world)))  # type: ignore[arg-type] # it is not async


def check(name: str, group: str, *codes: str) -> Callable[[Look], FunctionCheck]:
    """Make a function a check."""
    return lambda look: FunctionCheck(name, group, codes, look)


def remedy(hint: str | None) -> tuple[str, ...]:
    """An error's hint as a command to type; nothing when it is a sentence."""
    return (hint,) if hint and COMMAND.match(hint) else ()


def noted(code: str, title: str) -> Finding:
    """What is there and well, for people to see. `code`: the finding it would be otherwise."""
    return found(code, title, severity=Severity.OK)


def skipped(code: str, title: str) -> Finding:
    """What could not be looked at. `code`: the first of the findings it might have been."""
    return found(code, title, severity=Severity.SKIPPED)


def found(
    code: str,
    title: str,
    *,
    evidence: Iterable[str] = (),
    commands: Iterable[str] = (),
    instead: Iterable[str] = (),
    subject: str = "",
    severity: Severity | None = None,
) -> Finding:
    """A finding with the severity of its code, unless it is graver or lighter here."""
    return Finding(
        code=code,
        severity=severity or Severity(CODES[code][1]),
        title=title,
        evidence=tuple(line for line in evidence if line),
        commands=tuple(commands),
        instead=tuple(instead),
        subject=subject,
    )
