"""The store: models in `<models>/lantern/`, a folder each with a file `model.json` that says what it is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import Importer, ModelName, Source, closing
from ollmlx.errors import NotFound, StorageError, Unsupported
from ollmlx.types import CreateRequest, InstalledModel, ModelDefaults, PullProgress

MANIFEST = "model.json"


class LanternStore:
    """A folder is complete when it has its manifest; folders that begin with a dot are being made."""

    name = "lantern"

    def __init__(self, root: Path) -> None:
        self._root = root

    async def list(self) -> Sequence[InstalledModel]:
        return [model for folder in self._folders() if (model := _complete(folder)) is not None]

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        folder = self._folder(name)
        return None if folder is None else _read(folder)

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        stage = self._stage(name)
        yield PullProgress(status="pulling manifest")
        async with closing(source.fetch(name, stage, insecure=insecure)) as steps:
            async for step in steps:
                yield step
        yield PullProgress(status="writing manifest")
        self.settle(name, stage, format=source.format(name), source=source.provides(name) or source.name)
        yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        folder = self._folder(name)
        if folder is None:
            raise NotFound(f"model '{name.short}' not found", code="MDL002")
        shutil.rmtree(folder)

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        stage = self._stage(target)
        shutil.copytree(model.path, stage, dirs_exist_ok=True)
        self.settle(target, stage, format=model.format, source=model.source, defaults=model.defaults)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        if request.base is None:
            raise Unsupported("models of this store are made over installed ones")
        stage = self._stage(request.name)
        shutil.copytree(request.base.path, stage, dirs_exist_ok=True)
        self.settle(request.name, stage, format=request.base.format, source="local", defaults=request.defaults)
        yield PullProgress(status="success")

    def settle(
        self, name: ModelName, stage: Path, *, format: str, source: str, defaults: ModelDefaults | None = None
    ) -> None:
        """Write the manifest and move the finished folder to where it is found: all at once, or not at all."""
        (stage / MANIFEST).unlink(missing_ok=True)
        files = sorted(file for file in stage.rglob("*") if file.is_file())
        defaults = defaults or ModelDefaults()
        digest = hashlib.sha256(defaults.model_dump_json().encode())
        for file in files:
            digest.update(file.read_bytes())
        target = self._folder(name) or self._root / name.folder
        model = InstalledModel(
            name=name,
            store=self.name,
            format=format,
            path=target,
            digest=digest.hexdigest(),
            size=sum(file.stat().st_size for file in files),
            modified_at=datetime.now(UTC),
            defaults=defaults,
            source=source,
        )
        (stage / MANIFEST).write_text(model.model_dump_json(), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        stage.rename(target)

    def _stage(self, name: ModelName) -> Path:
        stage = self._root / f".{name.folder}"
        stage.mkdir(parents=True, exist_ok=True)
        return stage

    def _folders(self) -> Sequence[Path]:
        found = self._root.iterdir() if self._root.is_dir() else ()
        return sorted(folder for folder in found if not folder.name.startswith("."))

    def _folder(self, name: ModelName) -> Path | None:
        return next((folder for folder in self._folders() if folder.name.lower() == name.key), None)


def _read(folder: Path) -> InstalledModel:
    try:
        return InstalledModel.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder.name} is damaged", code="MDL003", hint="pull it again") from error


def _complete(folder: Path) -> InstalledModel | None:
    try:
        return _read(folder)
    except StorageError:
        return None  # not listed; resolving it says why
