"""The store of Ollama's models. It reads the folder, and writes to it only for pull, copy, create and delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ollmlx import Importer, ModelName, Source, closing
from ollmlx.storekit import discard, locked, storage_errors, to_transfer_thread
from ollmlx.types import CreateRequest, InstalledModel, PullProgress
from ollmlx_ollama_store.creation import OllamaCreation
from ollmlx_ollama_store.index import OllamaIndex
from ollmlx_ollama_store.installer import OllamaInstaller
from ollmlx_ollama_store.layout import OWN, OllamaLayout
from ollmlx_ollama_store.tensor_folders import TensorFolders


class OllamaStore:
    """Models in `<models>/manifests` and `<models>/blobs`, in Ollama's format. Ollama may use them at the same time.

    `folders`: where folders for MLX are made over models of safetensors.
    """

    name = "ollama"
    keeps = ("gguf",)

    def __init__(self, root: Path, folders: Path | None = None) -> None:
        self.layout = OllamaLayout(root)
        self.index = OllamaIndex(self.layout, self.name, TensorFolders(self.layout, folders or root / OWN / "folders"))
        self.installer = OllamaInstaller(self.index)
        self.creation = OllamaCreation(self.installer)

    async def list(self) -> Sequence[InstalledModel]:
        """List every complete model. Damaged models, interrupted pulls and cloud models are not listed."""
        with storage_errors("cannot read the models folder"):
            return await asyncio.to_thread(self.index.models)

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """Return the model of a name, or None. Raises StorageError if it is damaged, Unsupported for a cloud model."""
        with storage_errors(f"cannot read {name.short}"):  # Ollama's folder often belongs to a user of its own
            return await asyncio.to_thread(self.index.find, name)

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch missing layers, verify them, and write the manifest last. An interrupted pull is resumed."""
        yield PullProgress(status="pulling manifest")
        async with locked(self.layout.lock(name)):
            stage = await to_transfer_thread(self.installer.stage, name)
            async with closing(source.fetch(name, stage, insecure=insecure)) as steps:
                async for step in steps:
                    yield step
            yield PullProgress(status="verifying sha256 digest")
            manifest = await to_transfer_thread(self.creation.manifest, stage)
            yield PullProgress(status="writing manifest")
            async with locked(self.layout.store_lock):
                if await to_transfer_thread(self.installer.install, name, stage, manifest):
                    yield PullProgress(status="removing unused layers")
            await discard(stage)
            yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        """Remove the manifest, and the layers that no other model needs."""
        async with locked(self.layout.lock(name)), locked(self.layout.store_lock):
            await to_transfer_thread(self.installer.delete, name)
            await discard(self.layout.staging(name))

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Write a second manifest over the same layers; its bytes are those of the first one."""
        if model.name != target:
            async with locked(self.layout.lock(target)), locked(self.layout.store_lock):
                await to_transfer_thread(self.installer.copy, model, target)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Make a model over another model's layers, or over GGUF files, with layers for what the request states."""
        async with locked(self.layout.lock(request.name)):
            stage = await to_transfer_thread(self.installer.stage, request.name)
            try:
                async with closing(self.creation.create(request, importer, stage)) as steps:
                    async for step in steps:
                        yield step
                yield PullProgress(status="writing manifest")
                async with locked(self.layout.store_lock):
                    manifest = await to_transfer_thread(self.creation.manifest, stage)
                    await to_transfer_thread(self.installer.install, request.name, stage, manifest)
                yield PullProgress(status="success")
            finally:
                await discard(stage)
