"""What the doctor says of the store's folder: damaged models, folders and names that disagree, pulls that stopped."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ollmlx import Finding, ModelName, OllmlxError, Severity, format_size
from ollmlx.errors import StorageError
from ollmlx_hub.index import Reading, Shelf
from ollmlx_hub.layout import Layout
from ollmlx_hub.manifest import read_manifest, sha256_of

STORE = "mlx"
TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt"})
STALE_SECONDS = 600.0
"""A pull whose files did not change for so long is not running."""


class ModelsCheck:
    """Every folder of the store, read as the store reads it; with `--deep` every file against its sha256."""

    name = "models"
    group = "storage"
    codes: tuple[str, ...] = ("MDL001", "MDL003", "MDL010", "STO006", "STO007", "STO008")

    async def run(self, world: Any) -> Sequence[Finding]:
        """In a thread: it reads files."""
        return await asyncio.to_thread(lambda: list(self._look(world)))

    def _look(self, world: Any) -> Iterator[Finding]:
        layout = Layout(world.settings.models_folder / "mlx")
        shelf = Shelf(layout, STORE)
        try:
            folders = layout.folders()
        except StorageError:  # the folder itself: another check tells
            return
        for folder in folders:
            yield from _damage(world, layout, folder, shelf.reading(folder))
            if world.deep:
                yield from _changes(folder)
        yield from _disagreements(folders)
        yield from _leftovers(layout, world.now())


def _damage(world: Any, layout: Layout, folder: Path, reading: Reading) -> Iterator[Finding]:
    if reading.error is not None:
        yield _told(
            reading.error.code or "MDL003", Severity.ERROR, reading.error.message,
            (str(folder), _sentence(reading.error.hint)), folder.name, *_remedies(world, layout, folder),
        )  # fmt: skip
        return
    model = reading.model
    assert model is not None
    names = {file.path for file in reading.signature[0]}
    if not names & TOKENIZERS:
        yield _told(
            "MDL003", Severity.ERROR, f"{model.name.short} has no tokenizer", (str(folder),), model.name.short,
            *_remedies(world, layout, folder),
        )  # fmt: skip
    elif "completion" in model.capabilities and not (model.chat_template or model.defaults.template):
        seen = (str(folder), "a base model continues text; chat needs a template")
        commands = (f"ollmlx show {model.name.short}",)
        title = f"{model.name.short} has no chat template"
        yield _told("MDL010", Severity.INFO, title, seen, model.name.short, commands)


def _disagreements(folders: Sequence[Path]) -> Iterator[Finding]:
    """Models that two folders hold, and folders that are not called as their manifest says."""
    holders: dict[str, list[tuple[Path, ModelName]]] = {}
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except OllmlxError:  # damaged: told already
            continue
        if manifest is not None:
            holders.setdefault(manifest.name.key, []).append((folder, manifest.name))
    for held in holders.values():
        first, name = next((one for one in held if one[0].name == one[1].folder), held[0])
        if len(held) == 1 and first.name.lower() != name.key:
            yield _told(
                "STO007", Severity.WARNING, f"the folder {first.name} holds {name.short}", (str(first),), name.short,
                (f"mv {_quoted(first)} {_quoted(first.with_name(name.folder))}",),
            )  # fmt: skip
        for spare, _ in held:
            if spare != first:
                hidden = _quoted(spare.with_name("." + spare.name))
                yield _told(
                    "STO008", Severity.ERROR, f"{first.name} and {spare.name} both hold {name.short}",
                    (str(first), str(spare)), name.short,
                    (f"mv {_quoted(spare)} {hidden}",), (f"rm -r {_quoted(spare)}",),
                )  # fmt: skip


def _changes(folder: Path) -> Iterator[Finding]:
    """Files that are not what was installed."""
    try:
        manifest = read_manifest(folder)
    except OllmlxError:
        return
    for file in manifest.files if manifest is not None else ():
        path = folder / file.path
        if path.is_file() and sha256_of(path) != file.sha256:
            name = manifest.name.short if manifest is not None else folder.name
            yield _told(
                "MDL003", Severity.ERROR, f"{folder.name}/{file.path} is not what was installed", (str(path),),
                name, (f"rm {_quoted(path)}", f"ollmlx pull {name}"),
            )  # fmt: skip


def _leftovers(layout: Layout, now: float) -> Iterator[Finding]:
    """Pulls that stopped half-way, and what a crash left of a change."""
    for place in (layout.root / ".staging", layout.root / ".trash"):
        for folder in sorted(place.iterdir()) if place.is_dir() else ():
            files = [status for path in folder.rglob("*") if path.is_file() and (status := path.stat())]
            size = sum(status.st_size for status in files)
            if not size or now - max(status.st_mtime for status in files) <= STALE_SECONDS:
                continue
            name = _pulled_name(folder) if place.name == ".staging" else None
            what = f"a pull of {name.short} stopped half-way" if name else f"an interrupted change left {folder.name}"
            title = f"{what}; it holds {format_size(size)}"
            gone = (f"rm -r {_quoted(folder)}",)
            ways = ((f"ollmlx pull {name.short}",), gone) if name else (gone, ())
            yield _told("STO006", Severity.INFO, title, (str(folder),), folder.name, *ways)


def _pulled_name(folder: Path) -> ModelName | None:
    if folder.suffix in (".new", ".import", ".files"):  # something was being made, not pulled
        return None
    try:
        return ModelName.from_folder(folder.name)
    except OllmlxError:
        return None


def _remedies(world: Any, layout: Layout, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Let its files be read, or pull it again where somebody provides it, or remove it."""
    pulled, gone = _replacements(world, layout, folder)
    if all(os.access(path, os.R_OK) or not path.exists() for path in (folder, *folder.rglob("*"))):
        return pulled or gone, gone if pulled else ()
    mine = folder.stat().st_uid == world.user
    own = () if mine else (f'sudo chown -R "$(id -un)" {_quoted(folder)}',)
    return (*own, f"chmod -R u+rX {_quoted(folder)}"), pulled or gone


def _replacements(world: Any, layout: Layout, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How to pull it again, where somebody provides it, and how to remove it."""
    came: str | None = None
    try:
        manifest = read_manifest(folder)
        name = manifest.name if manifest is not None else ModelName.from_folder(folder.name)
        came = manifest.source if manifest is not None else None
    except OllmlxError:
        try:
            name = ModelName.from_folder(folder.name)
        except OllmlxError:
            return (), (f"rm -r {_quoted(folder)}",)
    sources = world.plugins.registry.sources.values() if world.plugins is not None else ()
    offers = [_unversioned(offer) for source in sources if source.store == STORE and (offer := source.provides(name))]
    # a model that was made or copied here is called as somebody else's may be: that would be another model
    again = bool(offers) if came is None else _unversioned(came) in offers
    gone = (f"ollmlx rm {name.short}" if layout.find(name) == folder else f"rm -r {_quoted(folder)}",)
    return (f"ollmlx pull {name.short}",) if again else (), gone


def _unversioned(source: str) -> str:
    return source.partition("@")[0].partition("==")[0]


def _sentence(hint: str | None) -> str:
    return "" if hint is None or hint.startswith("ollmlx ") else hint


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _told(
    code: str,
    severity: Severity,
    title: str,
    evidence: Sequence[str],
    subject: str,
    commands: tuple[str, ...],
    instead: tuple[str, ...] = (),
) -> Finding:
    seen = tuple(line for line in evidence if line)
    return Finding(
        code=code, severity=severity, title=title, evidence=seen, commands=commands, instead=instead, subject=subject
    )
