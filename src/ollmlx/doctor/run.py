"""Runs checks at the same time, each in a thread. A check that crashes or hangs becomes a finding."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path

from ollmlx.doctor.check import found
from ollmlx.doctor.checks import OWN
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import own_pip
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.errors import InvalidRequest
from ollmlx.errors.findings import Finding
from ollmlx.plugin.contracts import Check

PATIENCE = 4.0
"""Seconds for all ordinary checks together; the doctor ends within five."""


@dataclass(frozen=True)
class OwnedCheck:
    """A check and its owner: `ollmlx`, or the plugin that registered it."""

    check: Check
    owner: str


@dataclass
class _RunningCheck:
    owned: OwnedCheck
    started: float
    thread: threading.Thread | None = None
    ended: float | None = None
    findings: Sequence[Finding] = ()
    done: threading.Event = field(default_factory=threading.Event)


# -- which checks ------------------------------------------------------------------------------------------------------


def all_checks(context: CheckContext) -> Iterator[OwnedCheck]:
    """Yield ollmlx's own checks at once, then those of plugins when the plugins are loaded."""
    yield from (OwnedCheck(check, "ollmlx") for check in OWN)
    if context.plugins is not None:
        registered = context.plugins.registry.checks
        for name, one in zip(registered.names(), registered.values(), strict=True):
            yield OwnedCheck(one.check, registered.owner(name))


def select_checks(context: CheckContext, selection: str | None) -> Iterable[OwnedCheck]:
    """Return the checks of a group, or those that can report a code; all if None. Raises InvalidRequest."""
    if selection is None:
        return all_checks(context)
    every = list(all_checks(context))
    selected = [one for one in every if one.check.group == selection.lower() or selection.upper() in one.check.codes]
    if not selected:
        groups = ", ".join(dict.fromkeys(one.check.group for one in every))
        raise InvalidRequest(f"no check has the group or code {selection!r}", hint=f"groups: {groups}")
    return selected


def runbook_folders(context: CheckContext) -> list[Traversable]:
    """Return the folders with the runbooks of plugins."""
    registered = context.plugins.registry.checks.values() if context.plugins else ()
    return [one.runbooks for one in registered if one.runbooks is not None]


# -- running them ------------------------------------------------------------------------------------------------------


def examine(checks: Iterable[OwnedCheck], context: CheckContext, *, patience: float = PATIENCE) -> Report:
    """Start each check as soon as it is known and wait `patience` seconds for all. Errors of checks become findings."""
    started = time.monotonic()
    running = [_start(owned, context) for owned in checks]
    for one in running:
        one.done.wait(max(0.0, started + patience - time.monotonic()))
    now = time.monotonic()
    return Report(tuple(_result(one, now, patience) for one in running), now - started)


def _start(owned: OwnedCheck, context: CheckContext) -> _RunningCheck:
    one = _RunningCheck(owned, time.monotonic())
    # A daemon thread with its own event loop: a check that blocks delays neither the others nor the exit.
    one.thread = threading.Thread(target=_run_guarded, args=(one, context), name=owned.check.name, daemon=True)
    one.thread.start()
    return one


def _run_guarded(one: _RunningCheck, context: CheckContext) -> None:
    try:
        one.findings = tuple(asyncio.run(_run(one.owned.check, context)))
    except BaseException as error:  # noqa: BLE001 - the check of a plugin may raise anything, SystemExit too
        one.findings = (_crashed(one.owned, error),)
    one.ended = time.monotonic()
    one.done.set()


async def _run(check: Check, context: CheckContext) -> Sequence[Finding]:
    findings = await check.run(context)
    undeclared = sorted({finding.code for finding in findings} - set(check.codes))
    if undeclared:
        raise ValueError(f"it reported codes that it did not declare: {', '.join(undeclared)}")
    return [finding.model_copy(update=_localized(finding, context.config)) for finding in findings]


def _localized(finding: Finding, config: Path | None) -> dict[str, tuple[str, ...]]:
    """Return the commands as they work here: with the pip of this Python and the file that `--config` named."""
    fixes = {"commands": own_pip(finding.commands), "instead": own_pip(finding.instead)}
    if config is None:
        return fixes
    ours = f"ollmlx --config {shlex.quote(str(config))} "
    return {
        key: tuple(ours + one.removeprefix("ollmlx ") if one.startswith("ollmlx ") else one for one in commands)
        for key, commands in fixes.items()
    }


def _result(one: _RunningCheck, now: float, patience: float) -> CheckResult:
    check, owner = one.owned.check, one.owned.owner
    if not one.done.is_set():
        late = found(
            "DOC002",
            f"the check {check.name} took longer than {patience:g} s",
            evidence=(f"group: {check.group}, from {owner}",),
            commands=(f"ollmlx doctor {check.group}",),
            subject=check.name,
        )
        return CheckResult(check.name, check.group, owner, (late,), now - one.started)
    seconds = (one.ended or now) - one.started
    return CheckResult(check.name, check.group, owner, tuple(one.findings), seconds)


def _crashed(owned: OwnedCheck, error: BaseException) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return found(
        "DOC001",
        f"the check {owned.check.name} crashed: {type(error).__name__}: {error}",
        evidence=(f"from {owned.owner}", line),
        commands=("ollmlx doctor --json",),
        subject=owned.check.name,
    )
