"""Reading installed models, each folder once for as long as nothing in it changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import Conflict, StorageError
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_hub.description import Description, describe
from ollmlx_hub.layout import MANIFEST, FoundFile, Layout
from ollmlx_hub.manifest import Manifest, fingerprint, read_manifest

Signature = tuple[tuple[FoundFile, ...], int]


@dataclass(frozen=True)
class Reading:
    """One folder as it was read: the model, or why there is none."""

    signature: Signature
    model: InstalledModel | None = None
    error: OllmlxError | None = None


class Shelf:
    """The models of one store's folder. Its methods read files: call them in a thread."""

    def __init__(self, layout: Layout, store: str) -> None:
        self.layout = layout
        self.store = store
        self._read: dict[Path, Reading] = {}
        self._lock = threading.Lock()

    def models(self) -> list[InstalledModel]:
        """Every sound model. Of two folders that claim one name, the one spelled like it is taken."""
        found: dict[str, InstalledModel] = {}
        for folder in self.layout.folders():
            model = self.reading(folder).model
            if model is not None and (model.name.key not in found or folder.name == model.name.folder):
                found[model.name.key] = model
        return list(found.values())

    def find(self, name: ModelName) -> InstalledModel | None:
        """The model of a name. Raises StorageError when its folder is damaged, Conflict when it holds another model."""
        folder = self.layout.find(name)
        if folder is None:
            return None
        reading = self.reading(folder)
        if reading.error is not None:
            raise reading.error
        assert reading.model is not None
        if not reading.model.name.same_spelling(name):
            raise Conflict(
                f"the folder {folder.name} holds {reading.model.name.short}, not {name.short}",
                code="STO008",
                hint=f"ollmlx cp {reading.model.name.short} NEW-NAME, then ollmlx rm {reading.model.name.short}",
            )
        return reading.model

    def reading(self, folder: Path) -> Reading:
        try:
            signature = self._signature(folder)
        except (StorageError, OSError) as error:
            return Reading(((), 0), error=_explained(folder, error))
        with self._lock:
            known = self._read.get(folder)
        # What could not be read is read again: permissions change without a trace in the signature.
        if known is None or known.error is not None or known.signature != signature:
            known = self._load(folder, signature)
            with self._lock:
                self._read[folder] = known
        return known

    def _signature(self, folder: Path) -> Signature:
        self.layout.inside(folder, folder.name)
        try:
            written = (folder / MANIFEST).stat().st_mtime_ns
        except FileNotFoundError:
            written = 0
        return tuple(self.layout.files(folder)), written

    def _load(self, folder: Path, signature: Signature) -> Reading:
        try:
            return Reading(signature, model=self.read(folder, signature[0]))
        except (OllmlxError, OSError) as error:
            return Reading(signature, error=_explained(folder, error))

    def read(self, folder: Path, files: Sequence[FoundFile]) -> InstalledModel:
        """One folder as a model. Raises StorageError, InvalidRequest for a folder whose name is no model name."""
        manifest = read_manifest(folder)
        name = manifest.name if manifest is not None else ModelName.from_folder(folder.name)
        if manifest is not None:
            _complete(folder, manifest, files)
        description = describe(folder, files, manifest.source if manifest is not None else folder.name)
        defaults = _defaults(folder, manifest, description)
        created = manifest.created if manifest is not None else _newest(files)
        return InstalledModel(
            name=name,
            store=self.store,
            format="mlx",
            path=folder,
            digest=_digest(manifest, files, defaults, description),
            size=sum(file.size for file in files),
            modified_at=created,
            details=description.details.model_copy(update={"parent_model": manifest.base if manifest else ""}),
            capabilities=description.capabilities,
            defaults=defaults,
            info=description.info,
            source=manifest.source if manifest is not None else "local",
            chat_template=description.chat_template,
        )


def _complete(folder: Path, manifest: Manifest, files: Sequence[FoundFile]) -> None:
    sizes = {file.path: file.size for file in files}
    for file in manifest.files:
        size = sizes.get(file.path)
        if size is None:
            raise StorageError(f"{folder.name}/{file.path} is missing", code="MDL003", hint="ollmlx doctor storage")
        if size != file.size:
            raise StorageError(
                f"{folder.name}/{file.path} has {size} bytes, its manifest says {file.size}",
                code="MDL003",
                hint="ollmlx doctor storage",
            )


def _defaults(folder: Path, manifest: Manifest | None, description: Description) -> ModelDefaults:
    stated = manifest.defaults if manifest is not None else ModelDefaults()
    update: dict[str, object] = {"options": stated.options.over(description.options)}
    if not stated.license:
        license = description.license or (manifest.license if manifest is not None else "")
        update["license"] = (license,) if license else ()
    if stated.adapter is not None and not stated.adapter.is_absolute():
        update["adapter"] = folder / stated.adapter
    return stated.model_copy(update=update)


def _digest(
    manifest: Manifest | None, files: Sequence[FoundFile], defaults: ModelDefaults, description: Description
) -> str:
    contents: list[list[object]]
    if manifest is not None and {file.path for file in files} == {file.path for file in manifest.files}:
        contents = [[file.path, file.size, file.sha256] for file in sorted(manifest.files, key=lambda f: f.path)]
    else:
        contents = [[file.path, file.size, file.mtime_ns] for file in files]
    stated = defaults.model_dump(mode="json", exclude_unset=True, exclude={"adapter"})
    return fingerprint({"files": contents, "defaults": stated, "capabilities": description.capabilities})


def _newest(files: Sequence[FoundFile]) -> datetime:
    newest = max((file.mtime_ns for file in files), default=0)
    return datetime.fromtimestamp(newest / 1e9, UTC)


def _explained(folder: Path, error: Exception) -> OllmlxError:
    if isinstance(error, OSError):
        return StorageError(f"cannot read {folder.name}: {error.strerror or error}", code="MDL003")
    assert isinstance(error, OllmlxError)
    return error
