"""Reading installed models, each manifest once for as long as it and its blobs stay as they are."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import NotFound, StorageError
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.description import Description, describe
from ollmlx_ollama_store.layout import Entry, Layout
from ollmlx_ollama_store.manifest import MAX_MANIFEST, Manifest, read_manifest

SOURCE = "ollama:"
"""Before a manifest's full name, in a model's `source`."""

State = tuple[tuple[int, int], ...]
"""Size and modification time of the manifest and of each blob."""


@dataclass(frozen=True)
class Reading:
    """One manifest as it was read: the model, or why there is none."""

    state: State
    manifest: Manifest | None = None
    model: InstalledModel | None = None
    error: OllmlxError | None = None


class Shelf:
    """The models of one folder. Its methods read files: call them in a thread. None of them writes."""

    def __init__(self, layout: Layout, store: str) -> None:
        self.layout = layout
        self.store = store
        self._read: dict[Path, Reading] = {}
        self._lock = threading.Lock()

    def models(self) -> list[InstalledModel]:
        """Every sound model. Of two manifests that make one name, the first is taken, as `Layout.entries` has them."""
        found: dict[ModelName, InstalledModel] = {}
        for entry in self.layout.entries():
            if (model := self.reading(entry).model) is not None:
                found.setdefault(entry.name, model)
        return list(found.values())

    def find(self, name: ModelName) -> InstalledModel | None:
        """The model of a name. Raises StorageError when it is damaged, Unsupported for one that is not on this
        machine."""
        entry = self.layout.find(name)
        if entry is None:
            return None
        reading = self.reading(entry)
        if reading.error is not None:
            raise reading.error
        return reading.model

    def origin(self, model: InstalledModel) -> Entry:
        """The manifest behind a model, whatever it is called now. Raises NotFound when it is gone."""
        name = ModelName.parse(model.source.removeprefix(SOURCE)) if model.source.startswith(SOURCE) else model.name
        if (entry := self.layout.find(name)) is None:
            raise NotFound(f"model '{model.name.short}' not found", code="MDL002")
        return entry

    def reading(self, entry: Entry) -> Reading:
        """One manifest, read now or earlier."""
        with self._lock:
            known = self._read.get(entry.path)
        if known is not None and known.manifest is not None and self._state(entry, known.manifest) == known.state:
            return known
        fresh = self._load(entry)
        with self._lock:
            self._read[entry.path] = fresh
        return fresh

    def manifest(self, path: Path) -> tuple[Manifest, bytes]:
        """A manifest and its bytes. Raises StorageError."""
        data = self.layout.read(path, MAX_MANIFEST)
        return read_manifest(data, str(path.relative_to(self.layout.root))), data

    def _state(self, entry: Entry, manifest: Manifest) -> State | None:
        paths = [entry.path, *(self.layout.blob(layer.digest) for layer in manifest.blobs())]
        try:
            found = [self.layout.status(path) for path in paths]
        except OllmlxError:
            return None
        return tuple((status.st_size, status.st_mtime_ns) for status in found)

    def _load(self, entry: Entry) -> Reading:
        manifest: Manifest | None = None
        try:
            manifest, data = self.manifest(entry.path)
            self._complete(manifest)
            state = self._state(entry, manifest) or ()
            return Reading(state, manifest, self._model(entry, manifest, data, describe(self.layout, manifest)))
        except OllmlxError as error:
            told = type(error)(f"{entry.name.short}: {error.message}", code=error.code, hint=error.hint or _AGAIN)
            return Reading((), manifest, error=told)

    def _complete(self, manifest: Manifest) -> None:
        for layer in manifest.blobs():
            path = self.layout.blob(layer.digest)
            size = self.layout.status(path).st_size
            if size != layer.size:
                raise StorageError(
                    f"blobs/{path.name} has {size} bytes, the manifest says {layer.size}", code="MDL003", hint=_AGAIN
                )

    def _model(self, entry: Entry, manifest: Manifest, data: bytes, found: Description) -> InstalledModel:
        weights = manifest.of("model")
        return InstalledModel(
            name=entry.name,
            store=self.store,
            format=found.format,
            path=self.layout.blob(weights[0].digest) if found.format == "gguf" else entry.path,
            digest=hashlib.sha256(data).hexdigest(),
            size=manifest.size,
            modified_at=datetime.fromtimestamp(entry.path.stat().st_mtime, UTC),
            details=found.details,
            capabilities=found.capabilities,
            defaults=found.defaults,
            info=found.info,
            source=SOURCE + "{}/{}/{}:{}".format(*entry.path.relative_to(self.layout.manifests).parts),
            chat_template=found.template,
            projector_info=found.projector_info,
        )


_AGAIN = "ollmlx doctor storage"
