"""The index of MLX models: each folder is read once for as long as nothing in it changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import Conflict
from ollmlx.storekit import (
    FoundFile,
    ModelDescription,
    ModelIndex,
    damaged,
    describe_folder,
    foreign_file,
    require_inside,
)
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_hub.layout import MANIFEST, MlxLayout, MlxManifest, read_manifest


class MlxIndex(ModelIndex[Path, MlxManifest]):
    def __init__(self, layout: MlxLayout, store: str) -> None:
        super().__init__()
        self.layout = layout
        self.store = store

    def models(self) -> list[InstalledModel]:
        """Every usable model. Of two folders with the same name in their manifests, the one spelled like it counts."""
        found: dict[str, InstalledModel] = {}
        for folder in self.layout.folders():
            model = self.reading(folder).model
            if model is not None and (model.name.key not in found or folder.name == model.name.folder):
                found[model.name.key] = model
        return list(found.values())

    def find(self, name: ModelName) -> InstalledModel | None:
        """The model of a name. Raises StorageError if it is damaged, Conflict if its folder holds another model."""
        folder = self.layout.find(name)
        if folder is None:
            return None
        model = self.model(folder)
        if not model.name.same_spelling(name):
            raise Conflict(
                f"the folder {folder.name} holds {model.name.short}, not {name.short}",
                code="STO007",
                hint=f"ollmlx cp {model.name.short} NEW-NAME, then ollmlx rm {model.name.short}",
            )
        return model

    def read_manifest(self, key: Path) -> MlxManifest | None:
        """Read the manifest of a folder. Raises StorageError, also if the folder is a link that leads elsewhere."""
        require_inside(key, key.name, self.layout.bounds)
        return read_manifest(key)

    def read_state(self, key: Path, manifest: MlxManifest | None) -> Hashable:
        """Return path, size and time of every file, and the time of the manifest."""
        require_inside(key, key.name, self.layout.bounds)
        try:
            written = (key / MANIFEST).stat().st_mtime_ns
        except FileNotFoundError:
            written = 0
        return tuple(self.layout.files(key)), written

    def read_model(self, key: Path, manifest: MlxManifest | None) -> InstalledModel:
        """Read the model of a folder. Raises StorageError, or InvalidRequest if the folder's name is no model name."""
        files = self.layout.files(key)
        if manifest is not None:
            _require_complete(key, manifest, files)
            description = describe_folder(key, files, manifest.source)
        else:
            description = describe_folder(key, files, key.name)
            newest = max(file.mtime_ns for file in files)
            created = datetime.fromtimestamp(newest / 1e9, UTC)
            manifest = MlxManifest(name=ModelName.from_folder(key.name), created=created)
        defaults = _defaults(key, manifest, description)
        details = description.details.model_copy(update={"parent_model": manifest.base})
        return InstalledModel(
            **{**vars(description), "defaults": defaults, "details": details},
            name=manifest.name,
            store=self.store,
            path=key,
            digest=_digest(manifest, files, defaults, description),
            size=sum(file.size for file in files),
            modified_at=manifest.created,
            source=manifest.source,
        )

    def explain(self, key: Path, error: OllmlxError | OSError) -> OllmlxError:
        """Return the same error, or a StorageError for an OSError."""
        if isinstance(error, OSError):
            return damaged(f"cannot read {key.name}: {error.strerror or error}")
        return error


def _require_complete(folder: Path, manifest: MlxManifest, files: Sequence[FoundFile]) -> None:
    sizes = {file.path: file.size for file in files}
    for file in manifest.files:
        size = sizes.get(file.path)
        if size is None:
            raise damaged(f"{folder.name}/{file.path} is missing")
        if size != file.size:
            if file.path.endswith(".safetensors") and (instead := foreign_file(folder / file.path)):
                raise damaged(f"{folder.name}/{file.path} is damaged: {instead}")
            raise damaged(f"{folder.name}/{file.path} has {size} bytes, its manifest says {file.size}")


def _defaults(folder: Path, manifest: MlxManifest, description: ModelDescription) -> ModelDefaults:
    """Return the manifest's defaults; where it states nothing, those of the model's own files."""
    stated = manifest.defaults
    update: dict[str, object] = {"options": stated.options.over(description.defaults.options)}
    if not stated.license:
        update["license"] = description.defaults.license or tuple(filter(None, [manifest.license]))
    if stated.adapter is not None and not stated.adapter.is_absolute():
        update["adapter"] = folder / stated.adapter
    return stated.model_copy(update=update)


def _digest(
    manifest: MlxManifest, files: Sequence[FoundFile], defaults: ModelDefaults, description: ModelDescription
) -> str:
    """Return 64 hexadecimal digits that change when files, defaults or capabilities change."""
    contents: list[list[object]] = [[file.path, file.size, file.mtime_ns] for file in files]
    if {file.path for file in files} == {file.path for file in manifest.files}:
        contents = [[file.path, file.size, file.sha256] for file in sorted(manifest.files, key=lambda f: f.path)]
    stated = defaults.model_dump(mode="json", exclude_unset=True, exclude={"adapter"})
    parts: dict[str, Any] = {"files": contents, "defaults": stated, "capabilities": description.capabilities}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
