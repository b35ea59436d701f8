"""Did a runner fail, and was one left behind?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.lock_owner import holder
from ollmlx.doctor.ports import restarted
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.quantities import format_size

NONCE = "OLLMLX_RUNNER_NONCE"
WORDS = 4
"""So many of a runner's last lines are shown."""


@check("runners", "runners", "RUN002", "RUN004", "RUN005", "RUN008")
async def runners(world: CheckContext) -> list[Finding]:
    """Every runner of the running daemon that failed, with its last words, or was replaced."""
    told = await world.ask("/api/daemon") or {}
    shown = told.get("runners")
    again = restarted(world, told)
    return [
        finding
        for runner in (shown if isinstance(shown, list) else ())
        if isinstance(runner, dict)
        for finding in (*_well(runner), *_failed(runner, again), *_replaced(runner))
    ]


def _well(runner: Mapping[str, Any]) -> Iterator[Finding]:
    if runner.get("state") == "failed":
        return
    memory = runner.get("memory")
    held = f", {format_size(memory)}" if isinstance(memory, int) and memory else ""
    yield noted("RUN002", f"{runner.get('name')}: {runner.get('state')}, pid {runner.get('pid')}{held}")


def _failed(runner: Mapping[str, Any], again: tuple[str, ...]) -> Iterator[Finding]:
    """`again`: how the daemon is started anew."""
    if runner.get("state") != "failed":
        return
    name, code = str(runner.get("name")), str(runner.get("code"))
    yield found(
        code if code in runners.codes else "RUN002",
        str(runner.get("error") or f"the runner of {name} failed"),
        evidence=[str(line) for line in runner.get("last_words", ())][-WORDS:],
        commands=_remedies(code, name, again),
        subject=name,
    )


def _remedies(code: str, name: str, again: tuple[str, ...]) -> tuple[str, ...]:
    if code == "RUN008":
        return (*again, "ollmlx plugin list")
    if code == "RUN005":
        return ("ollmlx ps", "ollmlx config show")
    return ("ollmlx logs", f"ollmlx stop {name}")


def _replaced(runner: Mapping[str, Any]) -> Iterator[Finding]:
    count = runner.get("restarts")
    if not isinstance(count, int) or not count or runner.get("state") == "failed":
        return
    name = str(runner.get("name"))
    yield found(
        "RUN002", f"the runner of {name} was replaced {count} {'time' if count == 1 else 'times'}; it runs now",
        evidence=(str(runner.get("error") or ""),), severity=Severity.WARNING, commands=("ollmlx logs",), subject=name,
    )  # fmt: skip


@check("leftovers", "runners", "RUN007")
def leftovers(world: CheckContext) -> Iterator[Finding]:
    """Runners on record whose daemon is gone."""
    if holder(world) is not None:
        return
    try:
        records = sorted((world.settings.state_folder / "runners").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield skipped("RUN007", f"not looked at: the records of runners ({error.strerror}), see ollmlx doctor storage")
        return
    for file in records:
        try:
            record = json.loads(file.read_bytes())
            pid, nonce, runner = int(record["pid"]), str(record["nonce"]), str(record["runner"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the next daemon sweeps what nobody can read
        if world.processes.variables(pid).get(NONCE) == nonce:
            yield found(
                "RUN007", f"the runner of {runner} lives without a daemon", evidence=(f"pid {pid}",),
                commands=(f"kill -9 {pid}",), subject=runner,
            )  # fmt: skip
