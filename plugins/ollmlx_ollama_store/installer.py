"""Bringing layers and manifests in: staged under `<models>/.ollmlx`, renamed into place, the manifest last."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from ollmlx import ModelName, parse_digest, storage_error
from ollmlx.errors import StorageError
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel
from ollmlx_ollama_store.index import Shelf
from ollmlx_ollama_store.layout import Layout
from ollmlx_ollama_store.manifest import IMAGE, Kind, Layer, Manifest, digest_of, read_manifest

STAGED_MANIFEST = "manifest.json"
MAX_RECEIPT = 16 << 20


class Intake:
    """Call in a thread: `stage` and `put` under the model's lock, `install` and `copy` under the store's as well."""

    def __init__(self, layout: Layout, shelf: Shelf) -> None:
        self.layout = layout
        self.shelf = shelf

    def stage(self, name: ModelName) -> Path:
        """The folder for what comes in, with what an earlier try left there, and a receipt of the blobs that exist."""
        stage = self.layout.staging(name)
        with explained("cannot prepare the model"):
            stage.mkdir(parents=True, exist_ok=True)
            for stale in (STAGED_MANIFEST, RECEIPT):
                (stage / stale).unlink(missing_ok=True)
            receipt = FetchReceipt(source="ollama", files=tuple(self._present()))
            (stage / INSTALLED).write_text(receipt.model_dump_json(), encoding="utf-8")
        return stage

    def put(self, stage: Path, kind: Kind, data: bytes) -> Layer:
        """A small layer, into the staging folder."""
        with explained("cannot store the model"):
            digest = digest_of(data)
            (stage / self.layout.blob(digest).name).write_bytes(data)
        return Layer(media_type=IMAGE + kind, digest=digest, size=len(data))

    def put_file(self, stage: Path, kind: Kind, source: Path) -> Layer:
        """A file as a layer: linked into the staging folder, or copied where the file system has no links."""
        with explained(f"cannot store {source.name}"):
            digest = f"sha256:{sha256_of(source)}"
            target = stage / self.layout.blob(digest).name
            target.unlink(missing_ok=True)
            real = Path(os.path.realpath(source))
            try:
                target.hardlink_to(real)
            except OSError:
                shutil.copy2(real, target)
            return Layer(media_type=IMAGE + kind, digest=digest, size=target.stat().st_size)

    def install(self, name: ModelName, stage: Path, data: bytes) -> Manifest | None:
        """Move staged blobs in, then write the manifest. The manifest that it replaced, if it was another one.

        Raises StorageError when a blob is missing or is not what its name says.
        """
        manifest = read_manifest(data, STAGED_MANIFEST)
        verified = {(file.path, file.size, file.mtime_ns) for file in _receipt(stage / RECEIPT).files}
        with explained("cannot store the model"):
            self.layout.blobs.mkdir(parents=True, exist_ok=True)
            for layer in dict.fromkeys(manifest.blobs()):
                self._move(layer, stage, verified)
            entry = self.layout.find(name)
            target = entry.path if entry is not None else self.layout.target(name)
            before = self._before(target, data)
            write_whole(target, data)
        return before

    def copy(self, model: InstalledModel, target: ModelName) -> Manifest | None:
        """Write a model's manifest under a second name. The manifest that it replaced, if it was another one."""
        _, data = self.shelf.manifest(self.shelf.origin(model).path)
        there = self.layout.find(target)
        path = there.path if there is not None else self.layout.target(target)
        with explained(f"cannot copy {model.name.short}"):
            before = self._before(path, data)
            write_whole(path, data)
        return before

    def discard(self, stage: Path) -> None:
        """Remove a staging folder, and the folders of our own that are empty then."""
        shutil.rmtree(stage, ignore_errors=True)

    def _present(self) -> Iterator[FetchedFile]:
        if not self.layout.blobs.is_dir():
            return
        for path in self.layout.blobs.iterdir():
            prefix, _, digest = path.name.partition("-")
            if prefix == "sha256" and len(digest) == 64 and path.is_file():
                yield FetchedFile(path=path.name, size=path.stat().st_size, sha256=digest)

    def _move(self, layer: Layer, stage: Path, verified: set[tuple[str, int, int]]) -> None:
        target = self.layout.blob(layer.digest)
        staged = stage / target.name
        if staged.is_file():
            found = staged.stat()
            sure = (target.name, found.st_size, found.st_mtime_ns) in verified
            if not sure and sha256_of(staged) != parse_digest(layer.digest):
                staged.unlink()
                raise StorageError(f"{target.name} is not what its name says", code="STO013", hint="pull again")
            staged.replace(target)
        if self.layout.status(target).st_size != layer.size:
            raise StorageError(
                f"blobs/{target.name} has another size than the manifest says",
                code="MDL003",
                hint=f"rm '{target}', then pull again",
            )

    def _before(self, path: Path, data: bytes) -> Manifest | None:
        try:
            manifest, old = self.shelf.manifest(path)
        except StorageError:  # there was none, or none that anybody could use
            return None
        return manifest if old != data else None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a manifest whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.new")
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """What the file system refuses becomes a StorageError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from error


def _receipt(path: Path) -> FetchReceipt:
    """What a source says it verified; nothing when it says nothing that can be read."""
    try:
        if path.stat().st_size <= MAX_RECEIPT:
            return FetchReceipt.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        pass
    return FetchReceipt(source="")
