"""Running checks: side by side, each with a time limit, a crash of one being a finding of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollmlx.contracts import Check
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

logger = logging.getLogger(__name__)

CHECK_SECONDS = 4.0


@dataclass(frozen=True)
class Examined:
    """One check and what it found."""

    name: str
    group: str
    findings: tuple[Finding, ...]


async def examine(world: World, checks: Iterable[Check], seconds: float = CHECK_SECONDS) -> list[Examined]:
    """Run all checks at once; the result is in their order."""
    return list(await asyncio.gather(*(_one(world, check, seconds) for check in checks)))


async def _one(world: World, check: Check, seconds: float) -> Examined:
    try:
        findings: Sequence[Finding] = await asyncio.wait_for(check.run(world), seconds)
    except TimeoutError:
        findings = [
            Finding(
                code="DOC002",
                severity=Severity.WARNING,
                title=f"the check {check.name!r} did not end within {seconds:g} s",
                commands=(f"ollmlx doctor {check.group}",),
            )
        ]
    except Exception as error:  # a stranger's check may raise anything at all
        logger.debug("check %s failed", check.name, exc_info=True)
        findings = [
            Finding(
                code="DOC001",
                severity=Severity.ERROR,
                title=f"the check {check.name!r} itself failed",
                evidence=(f"{type(error).__name__}: {error}",),
                commands=("ollmlx doctor --json",),
            )
        ]
    return Examined(check.name, check.group, tuple(findings))


def failed(examined: Iterable[Examined]) -> bool:
    """Whether anything found is an error: the doctor's exit status."""
    return any(finding.severity is Severity.ERROR for one in examined for finding in one.findings)
