"""Checks of storage: whether the folders can be used, whether there is space, and whether every model can be run.

A path that may not be examined counts as absent: `os.path` says so, where `Path` raises.
"""
# ruff: noqa: PTH110, PTH112, PTH114

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ollmlx.doctor.check import check, found, remedy, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import Fixes, edit_settings, other_folder, quoted
from ollmlx.doctor.inventory import some_of
from ollmlx.errors import OllmlxError, PluginError, StorageError
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.storekit.files import free_name
from ollmlx.text.quantities import format_size
from ollmlx.types import InstalledModel

LOW_SPACE = 5 * 1000**3
FULL = 50 * 1000**2
ANSWER_SECONDS = 1.5
FEW_INODES = 100
MOST_NAMED = 3
"""The number of models that a finding names."""
MOUNTS = ("/mnt", "/media", "/Volumes", "/run/media")
REFUSALS = ("MDL003", "MDL004", "MDL005", "PLG006", "PLG008", "SEC005")
NO_BACKEND = "MDL005"


@check("folder", "storage", "STO001", "STO002", "STO003", "STO007")
async def folder(context: CheckContext) -> list[Finding]:
    """Examine the models folder, its disk and the state folder."""
    if not context.is_reliable("storage", "models"):
        return [skipped("STO001", "skipped: the settings have a fault, so the folders are not known; "
                                  "see ollmlx doctor config")]  # fmt: skip
    models, state = context.settings.models_folder, context.settings.state_folder
    silent = [one for one in (models, state) if not await _answers(one)]
    if silent:
        return [_no_answer(one, is_state=one == state) for one in silent]
    return [
        *_models_folder(context, models), *await _space(context, models), *_state_folder(context, state),
        *_other_space(context, models, state),
    ]  # fmt: skip


async def _answers(path: Path) -> bool:
    """Return False if the file system does not say in time whether a path exists."""
    try:
        await asyncio.wait_for(asyncio.to_thread(os.path.exists, path), ANSWER_SECONDS)
    except TimeoutError:
        return False
    return True


def _no_answer(path: Path, *, is_state: bool) -> Finding:
    other = other_folder("OLLMLX_STORAGE__STATE", ".ollmlx") if is_state else other_folder("OLLAMA_MODELS", "models")
    return found(
        "STO002", f"the {'state' if is_state else 'models'} folder {path} does not answer", subject=str(path),
        evidence=("it lies on a network share whose server is gone, or on a disk that fails: mount it again",),
        commands=other,
    )  # fmt: skip


def _models_folder(context: CheckContext, models: Path) -> Iterator[Finding]:
    if not os.path.exists(models):
        yield _missing(models)
    elif not os.path.isdir(models):
        yield found("STO002", f"the models folder {models} is not a folder", commands=_move_away(models))
    else:
        yield from _beside(models)
        subfolders = (models / "mlx", models / "manifests", models / "blobs")
        for path in (models, *filter(os.path.isdir, subfolders)):
            yield from _permissions(context, path)


def _beside(models: Path) -> Iterator[Finding]:
    """Report models that lie in the models folder itself, where no store looks."""
    with suppress(OSError):
        for path in sorted(models.iterdir()):
            if path.name not in ("mlx", "manifests", "blobs") and path.name[0] != "." and _is_model(path):
                target = models / "mlx" / path.name
                yield found(
                    "STO007", f"{path.name} lies beside the folder mlx, and is not found there", subject=path.name,
                    evidence=(str(path),), severity=Severity.WARNING,
                    commands=(SafeCommand(f"mv {quoted(path)} {quoted(target)}"),),
                )  # fmt: skip


def _is_model(path: Path) -> bool:
    return os.path.isfile(path / "config.json") and any(path.glob("*.safetensors"))  # noqa: PTH113


def _dangling(link: Path, what: str, elsewhere: tuple[str, str]) -> Finding:
    target = link.parent / link.readlink()
    return found(
        "STO002", f"{what} is a link to {target}, which does not exist",
        evidence=("perhaps a disk is not mounted: mount it first",), commands=(f"mkdir -p {quoted(target)}",),
        instead=other_folder(*elsewhere),
    )  # fmt: skip


def _missing(models: Path) -> Finding:
    link = next((one for one in (models, *models.parents) if os.path.islink(one) and not os.path.exists(one)), None)
    if link is not None:
        what = f"the models folder {models}" if link == models else f"{link}, above the models folder,"
        return _dangling(link, what, ("OLLAMA_MODELS", "models"))
    parent = _existing_parent(models)
    if str(parent) in MOUNTS or str(parent.parent) == "/run/media":
        title = f"the models folder {models} is on a disk that is not mounted"
        disk = quoted(parent / models.relative_to(parent).parts[0])
        return found(
            "STO002", title, evidence=(f"{parent} has no folder of this name",), commands=(f"sudo mount {disk}",),
            instead=other_folder("OLLAMA_MODELS", "models"),
        )  # fmt: skip
    if not os.access(parent, os.W_OK | os.X_OK) or not os.path.isdir(parent):
        commands, instead = _fixes(
            models, (f"sudo mkdir -p {quoted(models)}", f'sudo chown "$(id -un)" {quoted(models)}')
        )
        title = f"the models folder {models} cannot be created"
        return found("STO002", title, evidence=(f"{parent} is not writable",), commands=commands, instead=instead)
    return found(
        "STO001", f"{models} does not exist yet; the first pull creates it", severity=Severity.INFO,
        commands=("ollmlx pull smollm2:135m",),
    )  # fmt: skip


def _permissions(context: CheckContext, path: Path) -> Iterator[Finding]:
    readable, writable = os.access(path, os.R_OK | os.X_OK), os.access(path, os.W_OK)
    if readable and writable:
        return
    problem = "is not writable" if readable else "cannot be read"
    evidence = (_owner(path), "models can be used, not pulled" if readable else "")
    severity = Severity.WARNING if readable else Severity.ERROR
    if "ro" in context.machine.flags(path):
        title = f"the models folder {path} is on a file system that is mounted read-only"
        yield found(
            "STO002", title, evidence=evidence, commands=other_folder("OLLAMA_MODELS", "models"), severity=severity
        )
        return
    commands, instead = _fixes(path, _grant_access(context, path))
    title = f"the models folder {path} {problem}"
    yield found("STO002", title, evidence=evidence, severity=severity, commands=commands, instead=instead)


def _fixes(path: Path, repair: tuple[str, ...]) -> Fixes:
    """Repair a folder in the home folder; prefer another models folder for one elsewhere, which others may use."""
    home = Path(os.environ.get("HOME") or "/")
    if path.is_relative_to(home) and path != home:
        return repair, ()
    return other_folder("OLLAMA_MODELS", "models"), repair


def _grant_access(context: CheckContext, path: Path) -> tuple[str, ...]:
    if path.stat().st_uid == context.user:
        return (SafeCommand(f"chmod u+rwx {quoted(path)}"),)
    return (f'sudo chown -R "$(id -un)" {quoted(path)}',)


def _move_away(path: Path) -> tuple[str, ...]:
    aside = free_name(path.with_name(f"{path.name}.old"))
    return SafeCommand(f"mv {quoted(path)} {quoted(aside)}"), SafeCommand(f"mkdir -p {quoted(path)}")


async def _space(context: CheckContext, folder: Path) -> list[Finding]:
    space = context.machine.free_space(folder)
    if space is None or space >= LOW_SPACE:
        return []
    largest = sorted(await context.models(), key=lambda model: -model.size)[:MOST_NAMED]
    names = ", ".join(f"{model.name.short} ({format_size(model.size)})" for model in largest)
    full, free = space < FULL, format_size(space)
    title = f"the disk of {folder} is full" if full else f"{free} of disk space are left for models"
    return [
        found(
            "STO003", title, severity=Severity.ERROR if full else Severity.WARNING,
            evidence=(f"free: {free}" if full else str(folder), names and f"the largest models: {names}"),
            commands=("ollmlx list",), instead=(f"ollmlx rm {largest[0].name.short}",) if largest else (),
        )
    ]  # fmt: skip


def _other_space(context: CheckContext, models: Path, state: Path) -> Iterator[Finding]:
    """Report full disks of the state and of temporary files, and a disk on which no file can be made any more."""
    temporary = Path(context.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - the system's own default
    places = {"models": models, "state and the logs": state, "temporary files": temporary}
    free_models = context.machine.free_space(models)
    told = free_models is not None and free_models < FULL
    for what, place in places.items():
        space, inodes = context.machine.free_space(place), context.machine.free_inodes(place)
        if told and _disk(place) == _disk(models):
            continue
        if inodes is not None and inodes < FEW_INODES:
            title = f"the disk of the {what} has no inodes left: no file can be made in {place}"
            yield found("STO003", title, evidence=(f"free inodes: {inodes}",), commands=(f"df -i {quoted(place)}",))
            told = told or what == "models"
        elif what != "models" and space is not None and space < FULL // 2:
            free = f"free: {format_size(space)}"
            other = other_folder("TMPDIR", ".cache/ollmlx-tmp", create=True)
            commands = other if place == temporary else (f"du -xh -d 1 {quoted(place)}",)
            yield found("STO003", f"the disk of the {what} is full: {place}", evidence=(free,), commands=commands)


def _disk(path: Path) -> int:
    """Return the device of a path, or of its nearest folder that exists."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return folder.stat().st_dev
    return -1


def _state_folder(context: CheckContext, state: Path) -> Iterator[Finding]:
    exists = os.path.exists(state)
    if exists and not os.path.isdir(state):
        title = f"the state folder {state} is not a folder"
        yield found("STO002", title, commands=_move_away(state))
    elif not exists and os.path.islink(state):
        yield _dangling(state, f"the state folder {state}", ("OLLMLX_STORAGE__STATE", ".ollmlx"))
    elif exists and not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        read_only = "ro" in context.machine.flags(state)
        title = f"the state folder {state} {'is mounted read-only' if read_only else 'cannot be used'}"
        elsewhere = other_folder("OLLMLX_STORAGE__STATE", ".ollmlx")
        commands = elsewhere if read_only else _grant_access(context, state)
        yield found("STO002", title, evidence=(_owner(state),), commands=commands)
    elif exists:
        for name, is_right in (("ollmlx.lock", os.path.isfile), ("logs", os.path.isdir), ("runners", os.path.isdir)):
            place = state / name
            if os.path.lexists(place) and not is_right(place):
                to = free_name(place.with_name(f"{name}.old"))
                aside = SafeCommand(f"mv {quoted(place)} {quoted(to)}", asks=True)
                what = "folder" if name == "ollmlx.lock" else "file"
                title = f"{place} is a {what} or a link to nothing, and the daemon cannot use it"
                yield found("STO002", title, commands=(aside,))
    elif not os.access(parent := _existing_parent(state), os.W_OK | os.X_OK):
        yield found(
            "STO002", f"the state folder {state} cannot be created", evidence=(f"{parent} is not writable",),
            commands=other_folder("OLLMLX_STORAGE__STATE", ".ollmlx"),
        )  # fmt: skip


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if os.path.exists(parent))


def _owner(path: Path) -> str:
    status = path.stat()
    owner: str | int = status.st_uid
    with suppress(KeyError):  # a user id without a name
        owner = path.owner()
    return f"owner {owner}, mode {status.st_mode & 0o777:o}"


@check("runnable", "storage", *REFUSALS)
async def runnable(context: CheckContext) -> list[Finding]:
    """Offer every model of every store to the backends; report equal refusals once.

    A store is left out if its plugin has a check of the same name. A refusal is left out if another check has its
    code, for instance because MLX is missing.
    """
    registered = context.plugins.registry.checks
    reported_elsewhere = {"ENV001"}.union(*(one.check.codes for one in registered.values())).difference(REFUSALS)
    own = {listing.store.name for listing in await context.listings()} - set(registered.names())
    choices = await context.choices()
    refused: dict[tuple[str, str], list[tuple[InstalledModel, OllmlxError]]] = {}
    for model, refusal in choices.of:
        if isinstance(refusal, OllmlxError) and model.store in own and refusal.code not in reported_elsewhere:
            code = refusal.code if refusal.code in REFUSALS else NO_BACKEND
            refused.setdefault((code, refusal.hint or ""), []).append((model, refusal))
    findings = [_refused(context, code, hint, models) for (code, hint), models in refused.items()]
    if choices.late:
        findings.append(skipped(NO_BACKEND, f"not looked at for lack of time: {choices.late_note()}; see ollmlx doctor "
                                            "storage --deep"))  # fmt: skip
    # The error of a store whose folder cannot be read is another check's.
    return [
        *(found("PLG008", one.error.message, subject=one.store.name, commands=("ollmlx plugin list",))
          for one in await context.listings() if isinstance(one.error, PluginError) and one.store.name in own),
        *findings,
    ]  # fmt: skip


def _refused(context: CheckContext, code: str, hint: str, models: list[tuple[InstalledModel, OllmlxError]]) -> Finding:
    first, error = models[0]
    names = some_of([model.name.short for model, _ in models])
    single = len(models) == 1
    title = error.message if single else f"{len(models)} models cannot be run: {names}"
    look = f"ollmlx show {first.name.short}"
    commands = remedy(hint) or ((look,) if hint or code == "SEC005" else ("ollmlx plugin list",))
    off = ", ".join(context.settings.plugins.disabled) if code == NO_BACKEND else ""
    if off:
        commands = (*edit_settings(context, context.origin("plugins", "disabled"))[0], *commands)
    reason, advice = "" if single else error.message, "" if hint in commands else hint
    evidence = (str(first.path), reason, off and f"switched off: {off}", advice)
    severity = Severity.ERROR if isinstance(error, StorageError) else Severity.WARNING
    return found(code, title, evidence=evidence, commands=commands, subject=first.name.short, severity=severity)
