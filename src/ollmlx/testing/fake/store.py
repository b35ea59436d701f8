"""The store of fake models: those declared in `[plugins.fake]`, and those pulled, copied or created, a folder each."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx import Importer, ModelName, Source, closing
from ollmlx.errors import Conflict, NotFound, StorageError, Unsupported
from ollmlx.testing.fake.script import ALL_CAPABILITIES, FakeSettings, Script
from ollmlx.types import CreateRequest, InstalledModel, ModelDetails, PullProgress

MANIFEST = "model.json"
STAGING = ".staging-"


def fake_model(name: str = "parrot", **fields: Any) -> InstalledModel:
    """Return an installed fake model with no file behind it; `fields` replace the InstalledModel's own."""
    return InstalledModel.model_validate(
        {
            "name": ModelName.parse(name),
            "store": "fake",
            "format": "fake",
            "path": Path("/nonexistent"),
            "digest": "0" * 64,
            "size": 10 * 1024 * 1024,
            "modified_at": datetime(2025, 1, 1, tzinfo=UTC),
            "capabilities": ALL_CAPABILITIES,
            **fields,
        }
    )


class FakeStore:
    """A small but complete store: staged pulls, a manifest for each model, unfinished models are not listed."""

    name = "fake"

    def __init__(self, folder: Path, settings: FakeSettings | None = None) -> None:
        self._folder = folder
        self._settings = settings or FakeSettings()
        self._pulling: dict[str, asyncio.Lock] = {}
        names = ((ModelName.parse(text), script) for text, script in self._settings.models.items())
        self._configured = {name: self._model(name, script, folder / name.folder) for name, script in names}

    async def list(self) -> Sequence[InstalledModel]:
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return [*self._configured.values(), *(model for folder in folders if (model := _complete(folder)) is not None)]

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        if name in self._configured:
            return self._configured[name]
        folder = self._model_folder(name)
        return _read(folder) if (folder / MANIFEST).exists() else None

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        if name in self._configured:
            raise Conflict(f"{name.short} is declared in the settings and cannot be pulled")
        async with self._pulling.setdefault(name.key, asyncio.Lock()):
            staging = self._staging_folder(name)
            yield PullProgress(status="pulling manifest")
            async with closing(source.fetch(name, staging, insecure=insecure)) as steps:
                async for step in steps:
                    yield step
            yield PullProgress(status="writing manifest")
            origin = source.provides(name) or source.name
            self._install(staging, self._model(name, Script(), staging).model_copy(update={"source": origin}))
        yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        if name in self._configured:
            raise Conflict(f"{name.short} is declared in the settings and cannot be deleted")
        folder = self._model_folder(name)
        if not folder.exists():
            raise NotFound(f"model '{name.short}' not found", code="MDL002")
        shutil.rmtree(folder)

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        copied = model.model_copy(update={"name": target, "modified_at": datetime.now(UTC)})
        self._install(self._staging_folder(target), copied)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        if request.base is None or request.base.format != "fake":
            raise Unsupported("fake models are made over fake models")
        yield PullProgress(status="using existing layer")
        digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        update = {
            "name": request.name,
            "defaults": request.defaults,
            "digest": digest,
            "modified_at": datetime.now(UTC),
        }
        self._install(self._staging_folder(request.name), request.base.model_copy(update=update))
        yield PullProgress(status="success")

    def _model_folder(self, name: ModelName) -> Path:
        """Return the model's folder in the letter case it has; names that differ only in case are one model."""
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        return next((folder for folder in folders if folder.name.lower() == name.key), self._folder / name.folder)

    def _staging_folder(self, name: ModelName) -> Path:
        staging = self._folder / f"{STAGING}{name.folder}"
        staging.mkdir(parents=True, exist_ok=True)
        return staging

    def _model(self, name: ModelName, script: Script, path: Path) -> InstalledModel:
        options = script.model_dump(exclude_unset=True)
        return fake_model(
            str(name),
            path=path,
            digest=hashlib.sha256(f"{name}{options}".encode()).hexdigest(),
            size=self._settings.weights,
            modified_at=datetime.now(UTC),
            details=ModelDetails(
                format="fake", family="fake", families=("fake",), context_length=self._settings.context_length
            ),
            capabilities=self._settings.capabilities,
            info={
                "general.architecture": "fake",
                "fake.context_length": self._settings.context_length,
                "fake": options,
            },
            source="fake",
        )

    def _install(self, staging: Path, model: InstalledModel) -> None:
        """Write the manifest, and rename the complete folder to its final name."""
        folder = self._model_folder(model.name)
        installed = model.model_copy(update={"path": folder})
        (staging / MANIFEST).write_text(installed.model_dump_json(), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)


def _complete(folder: Path) -> InstalledModel | None:
    if folder.name.startswith("."):
        return None
    try:
        return _read(folder)
    except StorageError:
        return None  # Not listed. Resolving the name gives the reason.


def _read(folder: Path) -> InstalledModel:
    try:
        return InstalledModel.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(f"fake: {folder.name} is damaged: {type(error).__name__}", code="MDL003") from error
