"""Is there a models folder, and room in it?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ollmlx.doctor.check import check, found
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity
from ollmlx.quantities import format_size

LOW_SPACE = 5 * 1000**3
FULL = 50 * 1000**2


@check("folder", "storage", "STO001", "STO002", "STO003", "STO005", "STO009")
def folder(world: World) -> Iterator[Finding]:
    """The models folder and the state folder."""
    if world.loaded is None:  # unusable settings: nobody knows where the folders are meant to be
        return
    models, state = world.settings.models_folder, world.settings.state_folder
    yield from _models(models)
    yield from _room(world, models)
    if state.exists() and not (state.is_dir() and _usable(state)):
        yield found("STO009", f"the state folder {state} cannot be used", commands=(f"ls -ld {state}",))


def _models(models: Path) -> Iterator[Finding]:
    if not models.exists():
        yield found(
            "STO001", f"{models} does not exist yet; the first pull makes it", severity=Severity.INFO,
            commands=("ollmlx pull smollm2:135m",),
        )  # fmt: skip
    elif not models.is_dir():
        yield found("STO002", f"the models folder {models} is not a folder", commands=("ollmlx config show",))
    elif not os.access(models, os.R_OK | os.X_OK):
        yield found("STO002", f"the models folder {models} cannot be read", commands=(f"ls -ld {models}",))
    elif not os.access(models, os.W_OK):
        yield found(
            "STO002", f"the models folder {models} is not writable", severity=Severity.WARNING,
            evidence=("models can be used, not pulled",), commands=(f"ls -ld {models}",),
        )  # fmt: skip


def _room(world: World, models: Path) -> Iterator[Finding]:
    disk = world.machine.disk(models)
    if disk is None:
        return
    if disk.free < FULL:
        yield found("STO003", f"the disk of {models} is full", evidence=(f"free: {format_size(disk.free)}",),
                    commands=("ollmlx list", "ollmlx rm MODEL"))  # fmt: skip
    elif disk.free < LOW_SPACE:
        yield found("STO005", f"{format_size(disk.free)} of disk space are left for models", evidence=(str(models),),
                    commands=("ollmlx list",))  # fmt: skip


def _usable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK)
