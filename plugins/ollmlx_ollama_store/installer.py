"""Installing and removing Ollama's models.

Layers and manifests are staged under `<models>/.ollmlx` and renamed into place, the manifest last. A layer is removed
when no manifest lists it any more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from ollmlx import ModelName, OllmlxError, parse_digest
from ollmlx.errors import NotFound, StorageError
from ollmlx.storekit import (
    link_or_copy,
    read_receipt,
    replace_whole,
    sha256_of,
    storage_errors,
    sync_file,
    write_receipt,
    write_whole,
)
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel
from ollmlx_ollama_store.index import OllamaIndex
from ollmlx_ollama_store.layout import IMAGE, Kind, OllamaLayer, OllamaManifest

STAGED_MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


class OllamaInstaller:
    """Changes the models folder. Call its methods in a thread.

    `stage` and `add_*` need the model's lock; `install`, `copy` and `delete` the store's lock as well.
    """

    def __init__(self, index: OllamaIndex) -> None:
        self.index = index
        self.layout = index.layout

    def stage(self, name: ModelName) -> Path:
        """Return the staging folder of a model, with the blobs of an earlier try and a receipt of installed blobs."""
        stage = self.layout.staging(name)
        with storage_errors("cannot prepare the model"):
            stage.mkdir(parents=True, exist_ok=True)
            (stage / STAGED_MANIFEST).unlink(missing_ok=True)
            (stage / RECEIPT).unlink(missing_ok=True)
            write_receipt(stage / INSTALLED, FetchReceipt(source="ollama", files=tuple(self._installed_blobs())))
        return stage

    def add_layer(self, stage: Path, kind: Kind, data: bytes) -> OllamaLayer:
        with storage_errors("cannot store the model"):
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            (stage / self.layout.blob(digest).name).write_bytes(data)
        return OllamaLayer(media_type=IMAGE + kind, digest=digest, size=len(data))

    def add_file(self, stage: Path, kind: Kind, source: Path) -> OllamaLayer:
        """Link or copy a file into the staging folder as a layer."""
        with storage_errors(f"cannot store {source.name}"):
            digest = f"sha256:{_received(stage, source) or sha256_of(source)}"
            target = stage / self.layout.blob(digest).name
            link_or_copy(source, target)
            return OllamaLayer(media_type=IMAGE + kind, digest=digest, size=target.stat().st_size)

    def install(self, name: ModelName, stage: Path, data: bytes) -> bool:
        """Move the staged blobs into place, then write the manifest `data`.

        Returns True if it replaced another manifest, whose unused layers are removed. Raises StorageError if a blob is
        missing or does not have the digest of its name.
        """
        manifest = OllamaManifest.parse(data, STAGED_MANIFEST)
        receipt = read_receipt(stage / RECEIPT)
        verified = {
            (name, file.size, file.mtime_ns)
            for file in (receipt.files if receipt else ())
            for name in (file.path, self.layout.blob(f"sha256:{file.sha256}").name)
        }
        with storage_errors("cannot store the model"):
            self.layout.blobs.mkdir(parents=True, exist_ok=True)
            for layer in dict.fromkeys(manifest.blobs()):
                self._move_in(layer, stage, verified)
            return self._write_manifest(name, data)

    def copy(self, model: InstalledModel, target: ModelName) -> None:
        _, data = self.layout.manifest(self.layout.origin(model).path)
        with storage_errors(f"cannot copy {model.name.short}"):
            self._write_manifest(target, data)

    def delete(self, name: ModelName) -> None:
        """Remove a model and the layers that only this model has. Raises NotFound, StorageError."""
        entry = self.layout.find(name)
        if entry is None:
            raise NotFound(f"model '{name.short}' not found", code="MDL002")
        manifest: OllamaManifest | None = None
        try:
            manifest, _ = self.layout.manifest(entry.path)
        except StorageError as error:
            logger.warning("%s is removed without its layers: %s", name.short, error.message)
        with storage_errors(f"cannot remove {name.short}"):
            entry.path.unlink()
            self.layout.remove_empty(entry.path.parent)
            if manifest is not None:
                self._remove_unused(manifest)

    def _remove_unused(self, removed: OllamaManifest) -> None:
        """Remove those blobs of a removed manifest that no other manifest lists.

        A manifest that cannot be listed or read may need any of them: then no blob is removed.
        """
        listing = self.layout.listing()
        for folder, failure in listing.unlisted.items():
            logger.warning("no layer is removed: %s cannot be listed: %s", folder, failure.strerror or failure)
            return
        needed: set[str] = set()
        for path in listing.files:
            try:
                needed |= {layer.digest for layer in self.layout.manifest(path)[0].blobs()}
            except OllmlxError as error:
                logger.warning("no layer is removed: %s", error.message)
                return
        for digest in {layer.digest for layer in removed.blobs()} - needed:
            self.layout.blob(digest).unlink(missing_ok=True)
        self.index.folders.remove_unused()

    def _installed_blobs(self) -> Iterator[FetchedFile]:
        for path in self.layout.blobs.glob("sha256-" + "?" * 64):
            if path.is_file():
                digest = path.name.removeprefix("sha256-")
                yield FetchedFile(path=path.name, size=path.stat().st_size, sha256=digest)

    def _move_in(self, layer: OllamaLayer, stage: Path, verified: set[tuple[str, int, int]]) -> None:
        """Rename a staged blob into place. It is hashed first, unless the source verified exactly this file."""
        target = self.layout.blob(layer.digest)
        staged = stage / target.name
        if staged.is_file():
            found = staged.stat()
            sure = (target.name, found.st_size, found.st_mtime_ns) in verified
            if not sure and sha256_of(staged) != parse_digest(layer.digest):
                staged.unlink()
                raise StorageError(
                    f"{target.name} does not have the digest of its name", code="STO013", hint="pull again"
                )
            with staged.open("rb") as file:
                sync_file(file)
            replace_whole(staged, target)
        if self.layout.status(target).st_size != layer.size:
            raise StorageError(
                f"blobs/{target.name} has another size than the manifest says",
                code="MDL003",
                hint=f"rm '{target}', then pull again",
            )

    def _write_manifest(self, name: ModelName, data: bytes) -> bool:
        """Write a manifest. Returns True if it replaced another one, whose unused layers are removed."""
        entry = self.layout.find(name)
        path = entry.path if entry is not None else self.layout.target(name)
        replaced: OllamaManifest | None = None
        try:
            replaced, old = self.layout.manifest(path)
        except StorageError:  # there was no manifest, or a damaged one
            old = data
        write_whole(path, data)
        if replaced is None or old == data:
            return False
        self._remove_unused(replaced)
        return True


def _received(stage: Path, file: Path) -> str | None:
    """Return the sha256 of a file that the source has verified and that has not changed since."""
    receipt, found = read_receipt(stage / RECEIPT), file.stat()
    for each in receipt.files if receipt else ():
        if stage / each.path == file and (each.size, each.mtime_ns) == (found.st_size, found.st_mtime_ns):
            return each.sha256
    return None
