"""Runs checks at the same time, each in a thread. A check that crashes or hangs becomes a finding."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from ollmlx.doctor.check import found
from ollmlx.doctor.checks import OWN
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import own_pip
from ollmlx.doctor.inventory import some_of
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.errors import InvalidRequest
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.plugin.contracts import Check
from ollmlx.plugin.loader import in_background

T = TypeVar("T")
PATIENCE = 4.7
"""Seconds from the start of the process to the end of all ordinary checks: the doctor ends within five."""


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


def select_checks(context: CheckContext, selection: str | None) -> Iterator[OwnedCheck]:
    """Yield the checks of a group, or those that can report a code; all if None. Raises InvalidRequest."""
    groups: list[str] = []
    some = False
    for one in all_checks(context):
        groups.append(one.check.group)
        if selection is None or one.check.group == selection.lower() or selection.upper() in one.check.codes:
            some = True
            yield one
    if not some:
        known = ", ".join(dict.fromkeys(groups))
        raise InvalidRequest(f"no check has the group or code {selection!r}", hint=f"groups: {known}")


def runbook_folders(context: CheckContext) -> list[Traversable]:
    """Return the folders with the runbooks of plugins."""
    return [one.runbooks for one in context.plugins.registry.checks.values() if one.runbooks is not None]


def examine(
    checks: Iterable[OwnedCheck],
    context: CheckContext,
    *,
    patience: float = PATIENCE,
    now: Callable[[], float] = time.monotonic,
) -> Report:
    """Start each check as soon as it is known and wait `patience` seconds for all. Errors of checks become findings.

    What is not finished then is one finding. `now`: a clock.
    """
    started = now()
    context = replace(context, until=time.monotonic() + patience)
    # A thread with its own event loop for each check: one that blocks delays neither the others nor the exit.
    running: list[tuple[OwnedCheck, Future[CheckResult]]] = []
    listing = in_background("checks", partial(_start, checks, context, running))
    late, results = [], []
    if not _finished(listing, started + patience - now()):
        slow = [probe.task.name for probe in context.probes if not probe.loaded.done()]
        late.append("the plugins are still being loaded" + (f": {' and '.join(slow)}" if slow else ""))
    for one, future in tuple(running):
        if _finished(future, started + patience - now()):
            results.append(future.result())
        else:
            late.append(f"{one.check.name}, of the group {one.check.group}, from {one.owner}")
            results.append(one.result((), now() - started))
    if late:
        results.append(CheckResult("time", "doctor", "ollmlx", (_late(late, patience),), now() - started))
    return Report(tuple(results), now() - started)


def examine_here(
    build: Callable[[], CheckContext],
    select: Callable[[CheckContext], Iterable[OwnedCheck]] = all_checks,
    *,
    patience: float = PATIENCE,
    now: Callable[[], float] = time.monotonic,
) -> tuple[CheckContext | None, Report]:
    """Build the context and run the checks that `select` chooses of it, all within `patience` seconds.

    The context is None if it was not built in time: a file of the settings lies on a disk that does not answer.
    """
    started = now()
    building = in_background("context", build)
    try:
        built = _finished(building, patience)
    except Exception as error:  # noqa: BLE001 - whatever it is, the person is told
        return None, Report((CheckResult("context", "config", "ollmlx", (_not_begun(error),), 0.0),), 0.0)
    if not built:
        return None, Report((CheckResult("time", "config", "ollmlx", (_unread(patience),), patience),), patience)
    context = building.result()
    try:
        return context, examine(select(context), context, patience=max(0.0, started + patience - now()), now=now)
    except (MemoryError, RuntimeError) as error:
        return context, Report((CheckResult("limits", "machine", "ollmlx", (_too_little(error),), 0.0),), 0.0)


def _finished(future: Future[Any], seconds: float) -> bool:
    """Wait for a future. Return False if it is not done in time. Raises what it raised."""
    try:
        future.result(max(0.0, seconds))
    except TimeoutError:
        if future.done():
            raise
        return False
    return True


def _start(
    checks: Iterable[OwnedCheck], context: CheckContext, running: list[tuple[OwnedCheck, Future[CheckResult]]]
) -> None:
    for one in checks:
        running.append((one, in_background(one.check.name, partial(_examine, one, context))))


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


def _unread(patience: float) -> Finding:
    stated = os.environ.get("OLLMLX_CONFIG")
    places = (
        f"OLLMLX_CONFIG={stated}" if stated else "",
        f"HOME={os.environ.get('HOME', '')}",
        "the working directory",
    )
    return found(
        "DOC002", f"the settings could not be read within {patience:.0f} s: their disk does not answer",
        evidence=places, severity=Severity.ERROR,
        commands=(SafeCommand("unset OLLMLX_CONFIG"),) if stated else ("cd /", "ollmlx doctor"),
    )  # fmt: skip


def _too_little(error: Exception) -> Finding:
    title = f"the examination ended at a limit of memory, processes or addresses: {error or type(error).__name__}"
    return found("ENV004", title, commands=("ulimit -v unlimited", "ulimit -u 4096"), severity=Severity.ERROR)


def _not_begun(error: Exception) -> Finding:
    title = f"the examination could not begin: {type(error).__name__}: {str(error)[:200]}"
    where = traceback.format_tb(error.__traceback__)[-1:]
    return found("DOC001", title, evidence=where, commands=("cd /", "ollmlx doctor"))


def _late(what: Sequence[str], patience: float) -> Finding:
    names = some_of([one.partition(",")[0] for one in what])
    title = f"the examination was not finished within {patience:.0f} s: {names}"
    return found("DOC002", title, evidence=what, commands=("ollmlx doctor --deep",), subject=names)


def _crashed(owned: OwnedCheck, error: BaseException) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return found(
        "DOC001", f"the check {owned.check.name} crashed: {type(error).__name__}: {error}", subject=owned.check.name,
        evidence=(f"from {owned.owner}", line), commands=("ollmlx doctor --json",),
    )  # fmt: skip
