"""Did a runner fail, and was one left behind?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ollmlx.doctor.check import check, found
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

NONCE = "OLLMLX_RUNNER_NONCE"


@check("runners", "runners", "RUN002")
async def runners(world: World) -> list[Finding]:
    """The loaded models whose runner ended unasked, with the last cause."""
    told = await world.ask("/api/ps") or {}
    return [
        found(
            "RUN002", f"the runner of {model['name']} was restarted {model['restarts']} times",
            evidence=(str(model.get("last_error") or ""),), severity=Severity.WARNING,
            commands=("ollmlx logs",), subject=str(model["name"]),
        )
        for model in told.get("models", ())
        if isinstance(model, dict) and model.get("restarts")
    ]  # fmt: skip


@check("leftovers", "runners", "RUN007")
def leftovers(world: World) -> Iterator[Finding]:
    """Runners on record whose daemon is gone."""
    state = world.settings.state_folder
    if _daemon_lives(world, state / "ollmlx.lock"):
        return
    records = (state / "runners").glob("*.json") if (state / "runners").is_dir() else ()
    for file in sorted(records):
        try:
            record = json.loads(file.read_bytes())
            pid, nonce, runner = int(record["pid"]), str(record["nonce"]), str(record["runner"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the next daemon sweeps what nobody can read
        if world.processes.variables(pid).get(NONCE) == nonce:
            yield found(
                "RUN007", f"the runner of {runner} lives without a daemon", evidence=(f"pid {pid}",),
                commands=(f"kill {pid}",), subject=runner,
            )  # fmt: skip


def _daemon_lives(world: World, lock: Path) -> bool:
    try:
        holder = lock.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return False
    return holder.isdigit() and world.processes.get(int(holder)) is not None
