"""Runs checks at the same time, each in a thread. A check that crashes or hangs becomes a finding."""

from __future__ import annotations

import asyncio
import shlex
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from ollmlx.doctor.check import found
from ollmlx.doctor.checks import OWN
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import own_pip
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.errors import InvalidRequest
from ollmlx.errors.findings import Finding, SafeCommand
from ollmlx.plugin.contracts import Check
from ollmlx.plugin.loader import in_background

T = TypeVar("T")
PATIENCE = 4.0
"""Seconds for all ordinary checks together; the doctor ends within five."""


@dataclass(frozen=True)
class OwnedCheck:
    """A check and its owner: `ollmlx`, or the plugin that registered it."""

    check: Check
    owner: str

    def result(self, findings: Sequence[Finding], seconds: float) -> CheckResult:
        """Return the result of the check."""
        return CheckResult(self.check.name, self.check.group, self.owner, tuple(findings), seconds)


def all_checks(context: CheckContext) -> Iterator[OwnedCheck]:
    """Yield ollmlx's own checks at once, then those of plugins when the plugins are loaded."""
    yield from (OwnedCheck(check, "ollmlx") for check in OWN)
    registered = context.plugins.registry.checks
    foreign = {probe.task.name for probe in context.probes}
    for name, one in zip(registered.names(), registered.values(), strict=True):
        if registered.owner(name) not in foreign:
            yield OwnedCheck(one.check, registered.owner(name))
    for probe in context.probes:
        yield from (OwnedCheck(check, probe.task.name) for check in probe.checks())


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
    return [one.runbooks for one in context.plugins.registry.checks.values() if one.runbooks is not None]


def examine(checks: Iterable[OwnedCheck], context: CheckContext, *, patience: float = PATIENCE) -> Report:
    """Start each check as soon as it is known and wait `patience` seconds for all. Errors of checks become findings."""
    started = time.monotonic()
    # A thread with its own event loop for each check: one that blocks delays neither the others nor the exit.
    running = [(one, in_background(one.check.name, partial(_examine, one, context))) for one in checks]
    results = []
    for one, future in running:
        try:
            results.append(future.result(max(0.0, started + patience - time.monotonic())))
        except TimeoutError:
            results.append(one.result([_late(one, patience)], time.monotonic() - started))
    return Report(tuple(results), time.monotonic() - started)


def _examine(owned: OwnedCheck, context: CheckContext) -> CheckResult:
    started = time.monotonic()
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            findings = runner.run(_run(owned.check, context))
    except BaseException as error:  # noqa: BLE001 - the check of a plugin may raise anything, SystemExit too
        findings = [_crashed(owned, error)]
    return owned.result(findings, time.monotonic() - started)


class _DaemonThreads(ThreadPoolExecutor):
    """Runs each function in a thread of its own, which neither the event loop nor the exit of the process awaits.

    A look-up of a name and a call of a mount that hangs cannot be ended.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return in_background("check", partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: no thread is kept."""


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_DaemonThreads())
    return loop


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
        key: tuple(_with_config(one, ours) if one.startswith("ollmlx ") else one for one in commands)
        for key, commands in fixes.items()
    }


def _with_config(command: str, ours: str) -> str:
    text = ours + command.removeprefix("ollmlx ")
    return command.rewritten(text) if isinstance(command, SafeCommand) else text


def _late(owned: OwnedCheck, patience: float) -> Finding:
    check = owned.check
    return found(
        "DOC002", f"the check {check.name} took longer than {patience:g} s", subject=check.name,
        evidence=(f"group: {check.group}, from {owned.owner}",), commands=(f"ollmlx doctor {check.group}",),
    )  # fmt: skip


def _crashed(owned: OwnedCheck, error: BaseException) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return found(
        "DOC001", f"the check {owned.check.name} crashed: {type(error).__name__}: {error}", subject=owned.check.name,
        evidence=(f"from {owned.owner}", line), commands=("ollmlx doctor --json",),
    )  # fmt: skip
