"""Making a model's folder ready beside the others, and letting it in."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import ModelName, OllmlxError, storage_error
from ollmlx.errors import StorageError
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel, ModelDefaults
from ollmlx_hub.index import Shelf
from ollmlx_hub.layout import Layout, link
from ollmlx_hub.manifest import Manifest, hashed, read_manifest, read_receipt, write_receipt

PARTS = ".parts"


class Intake:
    """Builds folders under `.staging` and renames them into place. Call in a thread, under the model's lock."""

    def __init__(self, layout: Layout, shelf: Shelf) -> None:
        self.layout = layout
        self.shelf = shelf

    def stage_pull(self, name: ModelName, *, reuse: bool) -> Path:
        """The folder a source fetches into: what an earlier try left there, and what is installed when `reuse`."""
        stage = self.layout.staging(name)
        with _explained("cannot prepare a pull"):
            stage.mkdir(parents=True, exist_ok=True)
            self.layout.recover(self.layout.target(name))
            (stage / INSTALLED).unlink(missing_ok=True)
            manifest = self._installed(name)
            if manifest is not None:
                write_receipt(stage / INSTALLED, manifest.receipt())
                folder = self.layout.find(name)
                if reuse and folder is not None:
                    self._offer(folder, stage, manifest.files)
        return stage

    def stage_new(self, name: ModelName, suffix: str) -> Path:
        """An empty folder for a model that is made here."""
        stage = self.layout.staging(name)
        folder = stage.with_name(stage.name + suffix)
        with _explained("cannot prepare a model"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.layout.recover(self.layout.target(name))
        return folder

    def up_to_date(self, name: ModelName, receipt: FetchReceipt) -> bool:
        """Whether what was fetched is what is installed, sound and whole."""
        try:
            manifest = self._installed(name)
            return (
                manifest is not None
                and receipt.revision != ""
                and (manifest.source, manifest.revision) == (receipt.source, receipt.revision)
                and self.shelf.find(name) is not None
            )
        except OllmlxError:
            return False

    def finish(
        self,
        folder: Path,
        name: ModelName,
        *,
        receipt: FetchReceipt,
        defaults: ModelDefaults | None = None,
        base: str = "",
    ) -> None:
        """Verify a staged folder, write its manifest and rename it into place. Raises StorageError."""
        with _explained("cannot store the model"):
            for own in (RECEIPT, INSTALLED):
                (folder / own).unlink(missing_ok=True)
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            Manifest(
                name=name,
                source=receipt.source,
                revision=receipt.revision,
                license=receipt.license,
                created=datetime.now(UTC),
                base=base,
                files=hashed(folder, self.layout.files(folder), receipt.files),
                defaults=defaults or ModelDefaults(),
            ).write(folder)
            self.shelf.read(folder, self.layout.files(folder))
            target = self.layout.find(name) or self.layout.target(name)
            self.layout.swap_in(folder, target)

    def link_model(self, model: InstalledModel, into: Path) -> tuple[FetchedFile, ...]:
        """Give every file of an installed model a second name in a folder; their hashes, as far as they are known."""
        with _explained("cannot link the model's files"):
            for file in self.layout.files(model.path):
                link(model.path / file.path, into / file.path)
            manifest = read_manifest(model.path)
            return manifest.files if manifest is not None else ()

    def discard(self, *folders: Path) -> None:
        """Remove staged folders."""
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _installed(self, name: ModelName) -> Manifest | None:
        folder = self.layout.find(name)
        try:
            return read_manifest(folder) if folder is not None else None
        except StorageError:
            return None

    def _offer(self, folder: Path, stage: Path, files: Iterable[FetchedFile]) -> None:
        """Link installed files into the staging folder, so that a source need not fetch them again."""
        for file in files:
            source = folder / file.path
            if source.is_file() and not (stage / file.path).exists():
                link(source, stage / file.path)


def receipt_of(stage: Path, source: str) -> FetchReceipt:
    """What a source says it left; a source that says nothing gets its files hashed later."""
    return read_receipt(stage / RECEIPT) or FetchReceipt(source=source)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """What the file system refuses becomes a StorageError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from error
