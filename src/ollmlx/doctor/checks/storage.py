"""Is there a models folder, and room in it?

What may not be looked at counts as absent here: `os.path` says so, where `Path` raises.
"""
# ruff: noqa: PTH110, PTH112, PTH114

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from ollmlx.doctor.check import check, found, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.quantities import format_size
from ollmlx.types import InstalledModel

LOW_SPACE = 5 * 1000**3
FULL = 50 * 1000**2
INNER = ("mlx", "manifests", "blobs")
LARGEST = 3
"""So many models are named when room is needed."""

ELSEWHERE = 'export OLLAMA_MODELS="$HOME/models"'


@check("folder", "storage", "STO001", "STO002", "STO003", "STO009")
async def folder(world: CheckContext) -> list[Finding]:
    """The models folder and the state folder."""
    if not world.knows("storage", "models"):
        return [skipped("STO001", "not looked at: where the folders are is not known, see ollmlx doctor config")]
    models, state = world.settings.models_folder, world.settings.state_folder
    return [*_models(world, models), *await _room(world, models), *_state(world, state)]


def _models(world: CheckContext, models: Path) -> Iterator[Finding]:
    if not os.path.exists(models):
        yield from _missing(world, models)
    elif not os.path.isdir(models):
        yield found("STO002", f"the models folder {models} is not a folder", commands=_replaced(models))
    else:
        for place in (models, *(models / name for name in INNER if os.path.isdir(models / name))):
            yield from _rights(world, place)


def _missing(world: CheckContext, models: Path) -> Iterator[Finding]:
    if os.path.islink(models):
        target = models.parent / models.readlink()
        yield found(
            "STO002", f"the models folder {models} is a link to {target}, which is not there",
            evidence=("is a disk missing?",), commands=(f"mkdir -p {_shell(target)}",),
            instead=(f"rm {_shell(models)}",),
        )  # fmt: skip
    elif not os.access(above := _existing(models), os.W_OK | os.X_OK) or not os.path.isdir(above):
        ways = _ways(models, (f"sudo mkdir -p {_shell(models)}", f'sudo chown "$(id -un)" {_shell(models)}'))
        yield found(
            "STO002", f"the models folder {models} cannot be made", evidence=(f"{above} is not writable",),
            commands=ways[0], instead=ways[1],
        )  # fmt: skip
    else:
        yield found(
            "STO001", f"{models} does not exist yet; the first pull makes it", severity=Severity.INFO,
            commands=("ollmlx pull smollm2:135m",),
        )  # fmt: skip


def _rights(world: CheckContext, place: Path) -> Iterator[Finding]:
    readable, writable = os.access(place, os.R_OK | os.X_OK), os.access(place, os.W_OK)
    if readable and writable:
        return
    what = "is not writable" if readable else "cannot be read"
    seen = (_owner(place), "models can be used, not pulled" if readable else "")
    severity = Severity.WARNING if readable else Severity.ERROR
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        title = f"the models folder {place} is on a file system that is mounted read-only"
        yield found("STO002", title, evidence=seen, commands=(ELSEWHERE,), severity=severity)
        return
    commands, instead = _ways(place, _opened(world, place))
    title = f"the models folder {place} {what}"
    yield found("STO002", title, evidence=seen, severity=severity, commands=commands, instead=instead)


def _ways(place: Path, mend: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A folder of one's own is mended; one that lies elsewhere may be somebody else's, and is rather left alone."""
    if place.is_relative_to(Path.home()):
        return mend, ()
    return (ELSEWHERE,), mend


def _opened(world: CheckContext, place: Path) -> tuple[str, ...]:
    if place.stat().st_uid == world.user:
        return (f"chmod u+rwx {_shell(place)}",)
    return (f'sudo chown -R "$(id -un)" {_shell(place)}',)


def _replaced(place: Path) -> tuple[str, ...]:
    return f"mv {_shell(place)} {_shell(place.with_name(place.name + '.old'))}", f"mkdir -p {_shell(place)}"


async def _room(world: CheckContext, models: Path) -> list[Finding]:
    disk = world.machine.disk(models)
    if disk is None or disk.free >= LOW_SPACE:
        return []
    kept = sorted(await _kept(world), key=lambda model: -model.size)[:LARGEST]
    told = ", ".join(f"{model.name.short} ({format_size(model.size)})" for model in kept)
    full = disk.free < FULL
    left = f"{format_size(disk.free)} of disk space are left for models"
    return [
        found(
            "STO003", f"the disk of {models} is full" if full else left,
            severity=Severity.ERROR if full else Severity.WARNING,
            evidence=(f"free: {format_size(disk.free)}" if full else str(models), told and f"the largest: {told}"),
            commands=("ollmlx list",), instead=(f"ollmlx rm {kept[0].name.short}",) if kept else (),
        )
    ]  # fmt: skip


async def _kept(world: CheckContext) -> list[InstalledModel]:
    found: list[InstalledModel] = []
    for store in world.plugins.registry.stores.values() if world.plugins else ():
        try:
            found += await store.list()
        except OllmlxError:  # told already
            continue
    return found


def _state(world: CheckContext, state: Path) -> Iterator[Finding]:
    there = os.path.exists(state)
    if there and not os.path.isdir(state):
        title = f"the state folder {state} is not a folder"
        yield found("STO009", title, commands=_replaced(state))
    elif there and not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        title = f"the state folder {state} cannot be used"
        yield found("STO009", title, evidence=(_owner(state),), commands=_opened(world, state))
    elif not there and not os.access(above := _existing(state), os.W_OK | os.X_OK):
        yield found(
            "STO009", f"the state folder {state} cannot be made", evidence=(f"{above} is not writable",),
            commands=('export OLLMLX_STORAGE__STATE="$HOME/.ollmlx"',),
        )  # fmt: skip


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(above for above in path.parents if os.path.exists(above))


def _owner(place: Path) -> str:
    status = place.stat()
    try:
        return f"owner {place.owner()}, mode {status.st_mode & 0o777:o}"
    except KeyError:  # a user id without a name
        return f"owner {status.st_uid}, mode {status.st_mode & 0o777:o}"


def _shell(path: Path) -> str:
    return shlex.quote(str(path))
