"""The doctor's checks of the store "mlx" and of the hub."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollmlx import Finding, ModelName, OllmlxError, Severity, format_size
from ollmlx.errors import StorageError
from ollmlx.storekit import sha256_of
from ollmlx_hub.client import DEFAULT_ENDPOINT, HubClient, HubSettings
from ollmlx_hub.index import MlxIndex
from ollmlx_hub.layout import TOKENIZERS, MlxLayout, MlxManifest, read_manifest

STORE = "mlx"
STALE_SECONDS = 600.0
"""A pull whose files did not change for this time is not running."""
HUB_TIMEOUT = 6.0  # seconds


class ModelsCheck:
    """Reads every folder of the store as the store does; with `--deep`, compares every file with its sha256."""

    name = "models"
    group = "storage"
    codes: tuple[str, ...] = ("MDL001", "MDL003", "MDL010", "STO006", "STO007", "STO008")

    async def run(self, context: Any) -> Sequence[Finding]:
        """Return findings for damaged models, wrong folder names, and what interrupted changes left."""
        return await asyncio.to_thread(lambda: list(self._findings(context)))

    def _findings(self, context: Any) -> Iterator[Finding]:
        layout = MlxLayout(context.settings.models_folder / STORE)
        index = MlxIndex(layout, STORE)
        try:
            folders = layout.folders()
        except StorageError:  # another check reports a models folder that cannot be read
            return
        for folder in folders:
            yield from _damage(context, index, folder)
            if context.deep:
                yield from _changed_files(folder)
        yield from _wrong_folders(folders)
        yield from _leftovers(layout, context.now())


def _damage(context: Any, index: MlxIndex, folder: Path) -> Iterator[Finding]:
    reading = index.reading(folder)
    if reading.error is not None:
        yield _finding(
            reading.error.code or "MDL003", Severity.ERROR, reading.error.message,
            (str(folder), _sentence(reading.error.hint)), folder.name, *_remedies(context, index.layout, folder),
        )  # fmt: skip
        return
    model = reading.model
    assert model is not None
    if not {file.path for file in index.layout.files(folder)} & TOKENIZERS:
        yield _finding(
            "MDL003", Severity.ERROR, f"{model.name.short} has no tokenizer", (str(folder),), model.name.short,
            *_remedies(context, index.layout, folder),
        )  # fmt: skip
    elif "completion" in model.capabilities and not (model.chat_template or model.defaults.template):
        evidence = (str(folder), "a base model continues text; chat needs a template")
        commands = (f"ollmlx show {model.name.short}",)
        title = f"{model.name.short} has no chat template"
        yield _finding("MDL010", Severity.INFO, title, evidence, model.name.short, commands)


def _wrong_folders(folders: Sequence[Path]) -> Iterator[Finding]:
    """Findings for folders whose manifest has another name, and for models that two folders hold."""
    by_name: dict[str, list[tuple[Path, ModelName]]] = {}
    for folder in folders:
        if (manifest := _readable_manifest(folder)) is not None:
            by_name.setdefault(manifest.name.key, []).append((folder, manifest.name))
    for same in by_name.values():
        first, name = next((one for one in same if one[0].name == one[1].folder), same[0])
        if len(same) == 1 and first.name.lower() != name.key:
            yield _finding(
                "STO007", Severity.WARNING, f"the folder {first.name} holds {name.short}", (str(first),), name.short,
                (f"mv {_quoted(first)} {_quoted(first.with_name(name.folder))}",),
            )  # fmt: skip
        for spare, _ in same:
            if spare != first:
                hidden = _quoted(spare.with_name("." + spare.name))
                yield _finding(
                    "STO008", Severity.ERROR, f"{first.name} and {spare.name} both hold {name.short}",
                    (str(first), str(spare)), name.short,
                    (f"mv {_quoted(spare)} {hidden}",), (f"rm -r {_quoted(spare)}",),
                )  # fmt: skip


def _changed_files(folder: Path) -> Iterator[Finding]:
    """Findings for files that differ from the manifest's sha256."""
    manifest = _readable_manifest(folder)
    for file in manifest.files if manifest is not None else ():
        path = folder / file.path
        if manifest is not None and path.is_file() and sha256_of(path) != file.sha256:
            name = manifest.name.short
            yield _finding(
                "MDL003", Severity.ERROR, f"{folder.name}/{file.path} is not what was installed", (str(path),),
                name, (f"rm {_quoted(path)}", f"ollmlx pull {name}"),
            )  # fmt: skip


def _leftovers(layout: MlxLayout, now: float) -> Iterator[Finding]:
    """Findings for interrupted pulls, and for what a crash left of another change."""
    for area in (layout.root / ".staging", layout.root / ".trash"):
        for folder in sorted(area.iterdir()) if area.is_dir() else ():
            files = [status for path in folder.rglob("*") if path.is_file() and (status := path.stat())]
            size = sum(status.st_size for status in files)
            if not size or now - max(status.st_mtime for status in files) <= STALE_SECONDS:
                continue
            name = _pulled_name(folder) if area.name == ".staging" else None
            what = f"a pull of {name.short} stopped half-way" if name else f"an interrupted change left {folder.name}"
            title = f"{what}; it holds {format_size(size)}"
            remove = (f"rm -r {_quoted(folder)}",)
            remedies = ((f"ollmlx pull {name.short}",), remove) if name else (remove, ())
            yield _finding("STO006", Severity.INFO, title, (str(folder),), folder.name, *remedies)


def _pulled_name(folder: Path) -> ModelName | None:
    if folder.suffix in (".new", ".import", ".files"):  # a model was being created or imported, not pulled
        return None
    try:
        return ModelName.from_folder(folder.name)
    except OllmlxError:
        return None


def _readable_manifest(folder: Path) -> MlxManifest | None:
    try:
        return read_manifest(folder)
    except OllmlxError:  # `_damage` reports it
        return None


def _remedies(context: Any, layout: MlxLayout, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return commands that make the model usable, and commands to use instead.

    Files that cannot be read get other permissions. A model that a source provides is pulled again, another is removed.
    """
    pull, remove = _replacements(context, layout, folder)
    if all(os.access(path, os.R_OK) or not path.exists() for path in (folder, *folder.rglob("*"))):
        return pull or remove, remove if pull else ()
    own = () if folder.stat().st_uid == context.user else (f'sudo chown -R "$(id -un)" {_quoted(folder)}',)
    return (*own, f"chmod -R u+rX {_quoted(folder)}"), pull or remove


def _replacements(context: Any, layout: MlxLayout, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that pull the model again, if a source provides it, and those that remove it."""
    manifest = _readable_manifest(folder)
    try:
        name = manifest.name if manifest is not None else ModelName.from_folder(folder.name)
    except OllmlxError:
        return (), (f"rm -r {_quoted(folder)}",)
    sources = context.plugins.registry.sources.values() if context.plugins is not None else ()
    offers = [_unversioned(offer) for each in sources if each.store == STORE and (offer := each.provides(name))]
    # A model that was created or copied here may have the name of another model that a source provides.
    again = bool(offers) if manifest is None else _unversioned(manifest.source) in offers
    remove = (f"ollmlx rm {name.short}" if layout.find(name) == folder else f"rm -r {_quoted(folder)}",)
    return (f"ollmlx pull {name.short}",) if again else (), remove


def _unversioned(source: str) -> str:
    return source.partition("@")[0].partition("==")[0]


def _sentence(hint: str | None) -> str:
    return "" if hint is None or hint.startswith("ollmlx ") else hint


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _finding(
    code: str,
    severity: Severity,
    title: str,
    evidence: Sequence[str],
    subject: str,
    commands: tuple[str, ...],
    instead: tuple[str, ...] = (),
) -> Finding:
    lines = tuple(line for line in evidence if line)
    return Finding(
        code=code, severity=severity, title=title, evidence=lines, commands=commands, instead=instead, subject=subject
    )


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
        evidence = [f"the hub is {endpoint}, {self._origin(environ)}"]
        if error.code == "NET006":
            evidence.append(f"tokens are made at {endpoint}/settings/tokens")
            commands = ("unset HF_TOKEN", "hf auth login")
        elif endpoint != DEFAULT_ENDPOINT:
            commands = (f"curl -I {endpoint}", "unset HF_ENDPOINT")
        else:
            commands = (f"curl -I {endpoint}", "export HF_ENDPOINT=https://MIRROR")
        if error.hint:
            evidence.append(error.hint)
        return _finding(error.code or "NET005", Severity.ERROR, error.message, evidence, endpoint, commands)

    def _origin(self, environ: Mapping[str, str]) -> str:
        if self._own.endpoint:
            return "by [plugins.hub] endpoint"
        return "by HF_ENDPOINT" if environ.get("HF_ENDPOINT") else "by default"
