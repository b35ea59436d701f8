"""The index of Ollama's models: each manifest is read once for as long as it and its blobs do not change."""

from __future__ import annotations

import hashlib
import logging
import stat
from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import ModelName, OllmlxError
from ollmlx.storekit import ModelIndex, damaged, storage_error
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.description import describe
from ollmlx_ollama_store.layout import MAX_MANIFEST, SOURCE, ManifestEntry, OllamaLayout, OllamaManifest
from ollmlx_ollama_store.tensor_folders import TensorFolders

logger = logging.getLogger(__name__)


class OllamaIndex(ModelIndex[ManifestEntry, OllamaManifest]):
    def __init__(self, layout: OllamaLayout, store: str, folders: TensorFolders) -> None:
        super().__init__()
        self.layout = layout
        self.folders = folders
        self.store = store
        self._unlisted: set[str] = set()

    def models(self) -> list[InstalledModel]:
        """Every complete model. Of two manifests with one name, the first of `OllamaLayout.entries` counts."""
        listing = self.layout.listing()
        unlisted = {f"{folder}: {error.strerror or error}" for folder, error in listing.unlisted.items()}
        for problem in unlisted - self._unlisted if self.layout.manifests.exists() else ():
            logger.warning("models cannot be listed: %s", problem)
        self._unlisted = unlisted
        found: dict[ModelName, InstalledModel] = {}
        for entry in self.layout.named(listing):
            if (model := self.reading(entry).model) is not None:
                found.setdefault(entry.name, model)
        return list(found.values())

    def find(self, name: ModelName) -> InstalledModel | None:
        """The model of a name. Raises StorageError if it is damaged, Unsupported if it runs on another machine."""
        entry = self.layout.find(name)
        return self.model(entry) if entry is not None else None

    def read_manifest(self, key: ManifestEntry) -> OllamaManifest:
        return self.layout.manifest(key.path)[0]

    def read_state(self, key: ManifestEntry, manifest: OllamaManifest | None) -> Hashable:
        """Return inode, size and time of the manifest and of each blob. Raises StorageError if one is missing.

        While there is no folder for MLX, the state of a model that needs one equals no other.
        """
        blobs = manifest.blobs() if manifest is not None else ()
        found = [self._state(path) for path in (key.path, *(self.layout.blob(each.digest) for each in blobs))]
        lacks = manifest is not None and manifest.of("tensor") and not self.folders.path(manifest).is_dir()
        return (object() if lacks else None, *found)

    def _state(self, path: Path) -> tuple[int, ...]:
        """Return what tells a file from another. Where a link leads is checked, which is slow, only if it is one."""
        try:
            found = path.lstat()
        except OSError:
            found = self.layout.status(path)  # raises the error with its explanation
        if stat.S_ISLNK(found.st_mode):
            found = self.layout.status(path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def read_model(self, key: ManifestEntry, manifest: OllamaManifest | None) -> InstalledModel:
        assert manifest is not None
        for layer in manifest.blobs():
            path = self.layout.blob(layer.digest)
            size = self.layout.status(path).st_size
            if size != layer.size:
                raise damaged(f"blobs/{path.name} has {size} bytes, the manifest says {layer.size}")
        found = describe(self.layout, manifest, self.folders)
        path = self.folders.path(manifest) if found.format == "mlx" else key.path
        if found.format == "gguf":
            path = self.layout.blob(manifest.of("model")[0].digest)
        return InstalledModel(
            **vars(found),
            name=key.name,
            store=self.store,
            path=path,
            digest=hashlib.sha256(self.layout.read(key.path, MAX_MANIFEST)).hexdigest(),
            size=sum(layer.size for layer in manifest.blobs()),
            modified_at=datetime.fromtimestamp(key.path.stat().st_mtime, UTC),
            source=SOURCE + key.full_name,
        )

    def explain(self, key: ManifestEntry, error: OllmlxError | OSError) -> OllmlxError:
        """Return the same error, with the model's name and a hint."""
        if isinstance(error, OSError):
            return storage_error(error, f"cannot read {key.name.short}")
        return type(error)(
            f"{key.name.short}: {error.message}", code=error.code, hint=error.hint or "ollmlx doctor storage"
        )
