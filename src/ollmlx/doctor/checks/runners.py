"""Checks of runners: which failed, and which still run although their daemon has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import restart_daemon
from ollmlx.doctor.machine import BUSY, MUCH_SWAP
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.text.quantities import format_duration, format_size

SUSPENDED = ("stopped", "tracing-stop")
FIXES = {"RUN005": ("ollmlx ps", "ollmlx config show"), "RUN008": ("ollmlx plugin list",)}
"""The commands for a failure with this code."""


SLOWEST_DISK = 50 * 1000**2
"""Bytes a second: a model is loaded no more slowly."""
LEAST_LOADING = 120.0


@check("runners", "runners", "ENV003", "RUN002", "RUN004", "RUN005", "RUN008", "RUN018", "SEC009")
async def runners(context: CheckContext) -> list[Finding]:
    """Report every runner that failed or was replaced, and every prompt that the prefix cache could not help."""
    status = await context.ask("/api/daemon") or {}
    listed = status.get("runners")
    described = [one for one in (listed if isinstance(listed, list) else ()) if isinstance(one, dict)]
    restart = restart_daemon(context, status)
    found_here = [one for runner in described for one in _findings(runner, restart)]
    if context.daemon_process(status) is None:  # in a container processes have other numbers
        return found_here
    watched = await asyncio.gather(*(asyncio.to_thread(_watched, context, runner) for runner in described))
    return [*(one for findings in watched for one in findings), *found_here]


def _watched(context: CheckContext, runner: Mapping[str, Any]) -> Sequence[Finding]:
    """Report a runner that somebody stopped, that loads for ever, turns in a circle, or lies in the swap space."""
    name, pid, state = str(runner.get("name")), runner.get("pid"), runner.get("state")
    process = context.processes.get(pid) if isinstance(pid, int) else None
    if process is None or not isinstance(pid, int) or state == "failed":
        return []
    stop = (SafeCommand(f"ollmlx stop {name}", asks=True), f"ollmlx doctor --model {name}")
    if process.status in SUSPENDED:  # with a signal or a debugger; the daemon ends it after a while
        wake = SafeCommand(f"kill -CONT {pid}", asks=True)
        title = f"the runner of {name} is suspended"
        return [found("RUN004", title, evidence=(f"pid {pid}",), commands=(wake,), subject=name)]
    vitals = context.processes.vitals(pid)
    evidence = (f"pid {pid}", *vitals.told())
    if state == "starting" and (seconds := _age(runner, context.now())) > _longest_load(runner):
        title = f"the runner of {name} has been loading for {format_duration(round(seconds))}"
        return [found("RUN004", title, evidence=evidence, commands=stop, subject=name)]
    if state == "ready" and vitals.core >= BUSY and runner.get("active") == 0:
        title = f"the runner of {name} uses {vitals.core:.0%} of a core although no request is running"
        return [found("RUN004", title, evidence=evidence, commands=stop, subject=name, severity=Severity.WARNING)]
    if vitals.swapped > MUCH_SWAP and vitals.swapped > _number(runner, "memory") // 4:
        title = f"the runner of {name} is slow: {format_size(vitals.swapped)} of it are in the swap space"
        return [found("ENV003", title, evidence=evidence, commands=("ollmlx ps", *stop[:1]), subject=name)]
    return []


def _age(runner: Mapping[str, Any], now: float) -> float:
    """Return the seconds since a runner was started; 0 if that is not told."""
    with suppress(ValueError, TypeError):
        return now - datetime.fromisoformat(str(runner.get("started_at"))).timestamp()
    return 0.0


def _longest_load(runner: Mapping[str, Any]) -> float:
    return max(LEAST_LOADING, _number(runner, "reserved") / SLOWEST_DISK)


def _number(runner: Mapping[str, Any], key: str) -> int:
    value = runner.get(key)
    return value if isinstance(value, int) else 0


def _findings(runner: Mapping[str, Any], restart: tuple[str, ...]) -> Iterator[Finding]:
    name, state, error = str(runner.get("name")), runner.get("state"), str(runner.get("error") or "")
    memory, restarts = runner.get("memory"), runner.get("restarts")
    if state == "failed":
        code = str(runner.get("code"))
        again = (f"ollmlx stop {name}",) if code == "RUN004" else ()  # it permits a start, and mends nothing
        fixes = FIXES.get(code, ("ollmlx logs", *again, f"ollmlx doctor --model {name}"))
        yield found(
            code if code in runners.codes else "RUN002", error or f"the runner of {name} failed", subject=name,
            evidence=[str(line) for line in runner.get("last_words", ())][-4:],
            commands=(*restart, *fixes) if code == "RUN008" else fixes,
        )  # fmt: skip
        return
    size = f", {format_size(memory)}" if isinstance(memory, int) and memory else ""
    yield noted("RUN002", f"{name}: {state}, pid {runner.get('pid')}{size}")
    if isinstance(restarts, int) and restarts:
        title = f"the runner of {name} was replaced {restarts} {'time' if restarts == 1 else 'times'}; it runs now"
        yield found("RUN002", title, evidence=(error,), severity=Severity.WARNING, commands=("ollmlx logs",),
                    subject=name)  # fmt: skip
    notes = [str(note) for note in runner.get("notes") or ()]
    if loose := [note for note in notes if note.startswith("not confined: ") and "switched off" not in note]:
        yield found("SEC009", f"the runner of {name} is {loose[0]}", subject=name, evidence=loose[1:],
                    commands=("cat /sys/kernel/security/lsm",))  # fmt: skip
    if missed := str(runner.get("missed") or ""):
        yield found("RUN018", f"a client of {name} changes its prompts: {missed}", subject=name,
                    evidence=("the words are in the header X-Ollmlx-Cache of its responses",),
                    commands=("ollmlx ps -v",))  # fmt: skip


@check("leftovers", "runners", "RUN007")
def leftovers(context: CheckContext) -> Iterator[Finding]:
    """Report recorded runners that still run although their daemon has ended."""
    if context.processes.lock_owner(context.settings.state_folder) is not None:
        return
    try:
        records = sorted((context.settings.state_folder / "runners").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield skipped(
            "RUN007", f"skipped: the records of runners cannot be read ({error.strerror}); see ollmlx doctor storage"
        )
        return
    for file in records:
        try:
            record = json.loads(file.read_bytes())
            pid, nonce, runner = int(record["pid"]), str(record["nonce"]), str(record["runner"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the next daemon removes records that cannot be read
        if context.processes.variables(pid).get("OLLMLX_RUNNER_NONCE") == nonce:
            yield found(
                "RUN007", f"the runner of {runner} still runs although its daemon has ended", evidence=(f"pid {pid}",),
                commands=(SafeCommand(f"kill -9 {pid}", asks=True),), subject=runner,
            )  # fmt: skip
