"""Running checks: all at once, each in a thread with a deadline. One that crashes or hangs becomes a finding."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ollmlx.doctor.check import found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.pip import own_pip
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.errors.findings import Finding
from ollmlx.plugin.contracts import Check

PATIENCE = 4.0
"""Seconds for an ordinary examination; the doctor ends within five."""


@dataclass(frozen=True)
class Examination:
    """A check and the plugin that brought it."""

    check: Check
    owner: str


@dataclass
class _Running:
    examination: Examination
    begun: float
    thread: threading.Thread | None = None
    ended: float | None = None
    findings: Sequence[Finding] = ()
    done: threading.Event = field(default_factory=threading.Event)


def examine(examinations: Iterable[Examination], world: CheckContext, *, patience: float = PATIENCE) -> Report:
    """Run each check as soon as it is known; `patience` in seconds bounds the whole. Never raises for what one does."""
    begun = time.monotonic()
    running = [_begin(examination, world) for examination in examinations]
    for one in running:
        one.done.wait(max(0.0, begun + patience - time.monotonic()))
    now = time.monotonic()
    return Report(tuple(_result(one, now, patience) for one in running), now - begun)


def _begin(examination: Examination, world: CheckContext) -> _Running:
    one = _Running(examination, time.monotonic())
    # a daemon thread, with an event loop of its own: not even a check that blocks can hold up the others, or the exit
    one.thread = threading.Thread(target=_guarded, args=(one, world), name=examination.check.name, daemon=True)
    one.thread.start()
    return one


def _guarded(one: _Running, world: CheckContext) -> None:
    try:
        one.findings = tuple(asyncio.run(_run(one.examination.check, world)))
    except BaseException as error:  # noqa: BLE001 - a stranger's check may raise anything at all, SystemExit too
        one.findings = (_crashed(one.examination, error),)
    one.ended = time.monotonic()
    one.done.set()


async def _run(check: Check, world: CheckContext) -> Sequence[Finding]:
    findings = await check.run(world)
    strangers = sorted({finding.code for finding in findings} - set(check.codes))
    if strangers:
        raise ValueError(f"it reported codes that it did not declare: {', '.join(strangers)}")
    return [finding.model_copy(update=_typed(finding, world.asked)) for finding in findings]


def _typed(finding: Finding, config: Path | None) -> dict[str, tuple[str, ...]]:
    """Its commands as they work here: with the pip of this Python, and the settings file that was asked for."""
    ways = {"commands": own_pip(finding.commands), "instead": own_pip(finding.instead)}
    if config is None:
        return ways
    ours = f"ollmlx --config {shlex.quote(str(config))} "
    return {
        key: tuple(ours + one.removeprefix("ollmlx ") if one.startswith("ollmlx ") else one for one in commands)
        for key, commands in ways.items()
    }


def _result(one: _Running, now: float, patience: float) -> CheckResult:
    check = one.examination.check
    if not one.done.is_set():
        late = found(
            "DOC002",
            f"the check {check.name} took longer than {patience:g} s",
            evidence=(f"group: {check.group}, from {one.examination.owner}",),
            commands=(f"ollmlx doctor {check.group}",),
            subject=check.name,
        )
        return CheckResult(check.name, check.group, one.examination.owner, (late,), now - one.begun)
    seconds = (one.ended or now) - one.begun
    return CheckResult(check.name, check.group, one.examination.owner, tuple(one.findings), seconds)


def _crashed(examination: Examination, error: BaseException) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return found(
        "DOC001",
        f"the check {examination.check.name} crashed: {type(error).__name__}: {error}",
        evidence=(f"from {examination.owner}", where),
        commands=("ollmlx doctor --json",),
        subject=examination.check.name,
    )
