"""The doctor's checks of the store "mlx" and of the hub."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ollmlx import Finding, ModelName, OllmlxError, SafeCommand, Severity, format_size
from ollmlx.errors import StorageError
from ollmlx.storekit import damaged, free_name, read_json, sha256_of
from ollmlx_hub.client import DEFAULT_ENDPOINT, HubClient, HubSettings
from ollmlx_hub.index import MlxIndex
from ollmlx_hub.layout import TOKENIZERS, MlxLayout, nested_models, readable_manifest
from ollmlx_hub.store import MlxStore

STORE = "mlx"
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model[^/]*\.safetensors")
KNOWN_FILE = re.compile(r"config\.json|tokenizer(_config)?\.json|model[^/]*\.safetensors")
STALE_SECONDS = 600.0
"""A pull whose files did not change for this time is not running."""
HUB_TIMEOUT = 6.0  # seconds


class ModelsCheck:
    """Reads every folder of the store as the store does; with `--deep`, compares every file with its sha256."""

    name = "models"
    group = "storage"
    codes: tuple[str, ...] = ("MDL001", "MDL003", "MDL010", "STO006", "STO007")

    async def run(self, context: Any) -> Sequence[Finding]:
        return await asyncio.to_thread(lambda: list(self._findings(context)))

    def _findings(self, context: Any) -> Iterator[Finding]:
        index = _index(context)
        layout = index.layout
        try:
            folders = layout.folders()
        except StorageError:  # another check reports a models folder that cannot be read
            return
        yield from _strays(layout.root)
        for number, folder in enumerate(folders):
            if context.left() <= 0:
                late = f"{len(folders) - number} of {len(folders)} folders of models were not read for lack of time"
                title = f"{late}: {folder.name} and later ones; see ollmlx doctor storage --deep"
                yield Finding.of("MDL003", title, severity=Severity.SKIPPED)
                folders = folders[:number]
                break
            yield from _damage(context, index, folder)
            if context.deep:
                yield from _changed_files(folder)
        yield from _wrong_folders(folders)
        yield from _leftovers(layout, context.now())


def _index(context: Any) -> MlxIndex:
    """Return the index of the store, in which others have read the same folders, or a new one."""
    store = context.plugins.registry.stores.get(STORE)
    is_same = isinstance(store, MlxStore) and store.layout.root == context.settings.models_folder / STORE
    return store.index if is_same else MlxIndex(MlxLayout(context.settings.models_folder / STORE), STORE)


def _damage(context: Any, index: MlxIndex, folder: Path) -> Iterator[Finding]:
    if _is_empty(folder):  # what is left when models that lay too deep were moved up
        return
    reading = index.reading(folder)
    model, error, subject = reading.model, reading.error, folder.name
    if model is not None:
        subject = model.name.short
        if "speech" not in model.capabilities and not {each.path for each in index.layout.files(folder)} & TOKENIZERS:
            error = damaged(f"{subject} has no tokenizer")
    if error is not None:
        hint = "" if error.hint is None or error.hint.startswith("ollmlx ") else error.hint
        if nested := nested_models(folder):
            error = damaged(f"{folder.name} is no model: models lie in it one level too deep")
            hint = f"in it: {', '.join(path.name for path in nested[:5])}"
        commands, instead = _remedies(context, index.layout, folder)
        if (renamed := _misnamed(folder)) is not None:
            error, commands, instead = damaged(f"{folder.name} {renamed[0]}"), renamed[1], commands
        elif (other := _instead_of_model(folder)) is not None:
            error, commands, instead = damaged(f"{folder.name} {other[0]}"), other[1], ()
        elif "newer" in error.message:
            commands, instead = ("pip install --upgrade ollmlx",), commands
        yield Finding.of(
            error.code or "MDL003",
            error.message,
            evidence=(str(folder), hint),
            commands=commands,
            instead=instead,
            subject=subject,
            severity=Severity.ERROR,
        )
    elif model and "completion" in model.capabilities and not (model.chat_template or model.defaults.template):
        evidence = (str(folder), "a base model continues text; chat needs a template")
        title, commands = f"{subject} has no chat template", (f"ollmlx show {subject}",)
        yield Finding.of("MDL010", title, evidence=evidence, commands=commands, subject=subject)


def _is_empty(folder: Path) -> bool:
    with suppress(OSError):
        return next(folder.iterdir(), None) is None
    return False


def _misnamed(folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """Return what a folder has under a wrong name or of another download, and the commands; None if it is not that."""
    there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    wrong = {name: path for name, path in there.items() if name != name.lower() and KNOWN_FILE.fullmatch(name.lower())}
    wrong = {name: path for name, path in wrong.items() if name.lower() not in there}
    if wrong:
        moves = (_move(path, path.with_name(name.lower())) for name, path in wrong.items())
        return f"has names with capital letters, and they are written small: {', '.join(wrong)}", tuple(moves)
    index = there.get(INDEX)
    shards = set(((read_json(folder, INDEX) or {}).get("weight_map") or {}).values()) if index is not None else set()
    if index is not None and shards and not shards & set(there) and any(WEIGHTS.fullmatch(name) for name in there):
        return f"has the index of another download: none of its files is there ({index.name})", (
            _move(index, _hidden(index)),
        )
    return None


def _instead_of_model(folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """Return what a folder without `config.json` holds instead of a model for MLX, and the commands."""
    with suppress(OSError):
        if (folder / "config.json").exists():
            return None
        aside = _move(folder, _hidden(folder))
        if (file := next(iter(sorted(folder.glob("*.gguf"))), None)) is not None:
            return f"holds the GGUF file {file.name}, and no model for MLX", (*_created(file), aside)
        if (folder / "adapter_config.json").exists():
            return 'is an adapter, and no model: it is named in [models."NAME"] adapter, beside its base', (aside,)
    return None


def _created(file: Path) -> tuple[str, ...]:
    """Return the command that makes a model of a GGUF file."""
    name = re.sub(r"[^a-z0-9._-]", "-", file.stem.lower()).strip("-._") or "mine"
    return (f"echo FROM {_quoted(file)} | ollmlx create {name} -f -",)


def _strays(root: Path) -> Iterator[Finding]:
    """Findings for what lies among the folders of models and is none: links to nothing, and GGUF files."""
    entries: list[Path] = []
    with suppress(OSError):
        entries = sorted(path for path in root.iterdir() if path.name[0] != ".")
    for path in entries:
        aside = _move(path, _hidden(path))
        if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where it may not look
            title = f"{path.name} is a link to {path.readlink()}, which does not exist"
            why = "perhaps a disk is not mounted: mount it first"
            yield Finding.of("MDL003", title, evidence=(str(path), why), commands=(aside,), subject=path.name)
        elif path.suffix == ".gguf" and path.is_file():
            title = f"{path.name} is a GGUF file, and lies among the folders of MLX models"
            commands = (*_created(path), aside)
            yield Finding.of("MDL003", title, evidence=(str(path),), commands=commands, subject=path.name)


def _wrong_folders(folders: Sequence[Path]) -> Iterator[Finding]:
    """Findings for folders whose manifest has another name, and for models that two folders hold."""
    by_name: dict[str, list[tuple[Path, ModelName]]] = {}
    for folder in folders:
        if (manifest := readable_manifest(folder)) is not None:
            by_name.setdefault(manifest.name.key, []).append((folder, manifest.name))
    for same in by_name.values():
        first, name = next((one for one in same if one[0].name == one[1].folder), same[0])
        if len(same) == 1 and first.name.lower() != name.key:
            title = f"the folder {first.name} holds {name.short}"
            commands = (_move(first, first.with_name(name.folder)),)
            yield Finding.of("STO007", title, evidence=[str(first)], commands=commands, subject=name.short)
        for spare, _ in same:
            if spare != first:
                title = f"{first.name} and {spare.name} both hold {name.short}"
                hide = _move(spare, _hidden(spare))
                yield Finding.of(
                    "STO007",
                    title,
                    evidence=(str(first), str(spare)),
                    commands=[hide],
                    subject=name.short,
                    severity=Severity.ERROR,
                )


def _changed_files(folder: Path) -> Iterator[Finding]:
    """Findings for files that differ from the manifest's sha256."""
    if (manifest := readable_manifest(folder)) is None:
        return
    name = manifest.name.short
    for file in manifest.files:
        path = folder / file.path
        if path.is_file() and sha256_of(path) != file.sha256:
            title = f"{folder.name}/{file.path} is not what was installed"
            commands = (_move(path, _hidden(path)), SafeCommand(f"ollmlx pull {name}", asks=True))
            yield Finding.of("MDL003", title, evidence=[str(path)], commands=commands, subject=name)


def _leftovers(layout: MlxLayout, now: float) -> Iterator[Finding]:
    """Findings for interrupted pulls, and for what a crash left of another change."""
    for area in (layout.root / ".staging", layout.root / ".trash"):
        for folder in sorted(area.iterdir()) if area.is_dir() else ():
            files = [status for path in folder.rglob("*") if path.is_file() and (status := path.stat())]
            size = sum(status.st_size for status in files)
            if not size or now - max(status.st_mtime for status in files) <= STALE_SECONDS:
                continue
            is_pull = area.name == ".staging" and folder.suffix not in (".new", ".import", ".files")
            name = _name_of(folder) if is_pull else None
            what = f"a pull of {name.short} stopped half-way" if name else f"an interrupted change left {folder.name}"
            title = f"{what}; it holds {format_size(size)}"
            remove = (f"rm -r {_quoted(folder)}",)
            pull = SafeCommand(f"ollmlx pull {name.short}", asks=True) if name else ""
            commands, instead = ((pull,), remove) if name else ((_list(folder), *remove), ())
            yield Finding.of(
                "STO006", title, evidence=[str(folder)], commands=commands, instead=instead, subject=folder.name
            )


def _name_of(folder: Path) -> ModelName | None:
    try:
        return ModelName.from_folder(folder.name)
    except OllmlxError:
        return None


def _remedies(context: Any, layout: MlxLayout, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return commands that make the model usable, and commands to use instead.

    Files that cannot be read get other permissions. A model that a source provides is pulled again, another is moved
    to a name that is no model's. Models that lie one level too deep are moved up.
    """
    replace = _replacements(context, layout, folder)
    if nested_models(folder):
        return replace, ()
    if all(os.access(path, os.R_OK) or not path.exists() for path in (folder, *folder.rglob("*"))):
        return replace[:1], replace[1:]
    others = any(path.lstat().st_uid != context.user for path in (folder, *folder.rglob("*")))
    own = (f'sudo chown -R "$(id -un)" {_quoted(folder)}',) if others else ()
    return (*own, SafeCommand(f"chmod -R u+rX {_quoted(folder)}")), replace[:1]


def _replacements(context: Any, layout: MlxLayout, folder: Path) -> tuple[str, ...]:
    """Return the command that pulls the model again, if a source provides it, and the one that sets it aside.

    Nothing is removed: the folder may hold what a person made, or models that lie one level too deep.
    """
    nested = nested_models(folder)
    if len(nested) == 1 and nested[0].name == folder.name:
        outer = _hidden(folder)
        return (_move(folder, outer), _move(outer / folder.name, folder))
    if nested:
        return tuple(_move(path, free_name(layout.root / f"{folder.name}_{path.name}")) for path in nested)
    manifest = readable_manifest(folder)
    name = manifest.name if manifest is not None else _name_of(folder)
    aside = _move(folder, _hidden(folder))
    if name is None:
        return (aside,)
    sources = context.plugins.registry.sources.values() if context.plugins is not None else ()
    offers = [_unversioned(offer) for each in sources if each.store == STORE and (offer := each.provides(name))]
    # A model that was created or copied here may have the name of another model that a source provides.
    again = bool(offers) if manifest is None else _unversioned(manifest.source) in offers
    pull = SafeCommand(f"ollmlx pull {name.short}", asks=True, changes=folder)
    if manifest is None:  # a person put it there: perhaps the hub has no such model
        return (aside, pull) if again else (aside,)
    return (pull, aside) if again else (aside,)


def _move(path: Path, to: Path) -> SafeCommand:
    """Return the command that moves what a person may have put there; it can be moved back."""
    return SafeCommand(f"mv {_quoted(path)} {_quoted(to)}", asks=True)


def _hidden(path: Path) -> Path:
    """Return a free name beside a path that is never a model's."""
    return free_name(path.with_name(f".{path.name.lstrip('.')}"))


def _list(folder: Path) -> str:
    return f"ls -lR {_quoted(folder)}"


def _unversioned(source: str) -> str:
    return source.partition("@")[0].partition("==")[0]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


class HubCheck:
    """With `--online`: makes one request to the hub, with the token if there is one. `own`: the plugin's settings."""

    name = "hub"
    group = "network"
    codes: tuple[str, ...] = ("NET005", "NET006")

    def __init__(self, own: HubSettings) -> None:
        self._own = own

    async def run(self, context: Any) -> Sequence[Finding]:
        """Return a finding if the hub does not answer or does not accept the token; nothing without `--online`."""
        if not context.online:
            return ()
        client = HubClient(self._own.access(context.environ))
        try:
            await asyncio.to_thread(client.ping, HUB_TIMEOUT)
        except OllmlxError as error:
            return (self._problem(error, client.access.endpoint, context.environ),)
        return ()

    def _problem(self, error: OllmlxError, endpoint: str, environ: Mapping[str, str]) -> Finding:
        origin = "by HF_ENDPOINT" if environ.get("HF_ENDPOINT") else "by default"
        origin = "by [plugins.hub] endpoint" if self._own.endpoint else origin
        evidence = [f"the hub is {endpoint}, {origin}"]
        if error.code == "NET006":
            evidence.append(f"tokens are made at {endpoint}/settings/tokens")
            commands = ("unset HF_TOKEN", "hf auth login")
        else:
            other = "export HF_ENDPOINT=https://MIRROR" if endpoint == DEFAULT_ENDPOINT else "unset HF_ENDPOINT"
            commands = (f"curl -I {endpoint}", other)
        evidence.append(error.hint or "")
        code = error.code or "NET005"
        return Finding.of(code, error.message, evidence=evidence, commands=commands, subject=endpoint)
