"""The store of Ollama's own models. It reads; it writes only what a person asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ollmlx import Importer, ModelName, Source, closing, locked, storage_error
from ollmlx.errors import NotFound
from ollmlx.types import CreateRequest, InstalledModel, PullProgress
from ollmlx_ollama_store.creation import Making
from ollmlx_ollama_store.index import Shelf
from ollmlx_ollama_store.installer import Intake
from ollmlx_ollama_store.layout import Layout
from ollmlx_ollama_store.removal import Removal


class OllamaStore:
    """Models in `<models>/manifests` and `<models>/blobs`, as Ollama lays them out; Ollama may use them meanwhile."""

    name = "ollama"
    keeps = ("gguf",)

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.shelf = Shelf(self.layout, self.name)
        self.intake = Intake(self.layout, self.shelf)
        self.removal = Removal(self.layout, self.shelf)
        self.making = Making(self.layout, self.shelf, self.intake)

    async def list(self) -> Sequence[InstalledModel]:
        """Every complete model. What is damaged, half-pulled or only a name for a model elsewhere is not listed."""
        return await asyncio.to_thread(self.shelf.models)

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """The model, or None. Raises StorageError when it is damaged, Unsupported for one that runs elsewhere."""
        try:
            return await asyncio.to_thread(self.shelf.find, name)
        except OSError as error:  # Ollama's folder often belongs to a user of its own
            raise storage_error(error, f"cannot read {name.short}") from error

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch what is missing, verify, and write the manifest last. Resumable; layers that are here stay."""
        yield PullProgress(status="pulling manifest")
        async with locked(self.layout.lock(name)):
            stage = await asyncio.to_thread(self.intake.stage, name)
            async with closing(source.fetch(name, stage, insecure=insecure)) as steps:
                async for step in steps:
                    yield step
            yield PullProgress(status="verifying sha256 digest")
            brought = await asyncio.to_thread(self.making.manifest, stage)
            yield PullProgress(status="writing manifest")
            async with locked(self.layout.store_lock):
                before = await asyncio.to_thread(self.intake.install, name, stage, brought)
                if before is not None:
                    yield PullProgress(status="removing unused layers")
                    await asyncio.to_thread(self.removal.sweep, before)
            await asyncio.to_thread(self.intake.discard, stage)
            yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        """Remove the manifest and the layers that no other model needs."""
        async with locked(self.layout.lock(name)), locked(self.layout.store_lock):
            try:
                await asyncio.to_thread(self.removal.delete, name)
                await asyncio.to_thread(self.intake.discard, self.layout.staging(name))
            except FileNotFoundError as error:
                raise NotFound(f"model '{name.short}' not found", code="MDL002") from error
            except OSError as error:
                raise storage_error(error, f"cannot remove {name.short}") from error

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """A second manifest over the same layers, byte for byte the first one's."""
        if model.name == target:
            return
        async with locked(self.layout.lock(target)), locked(self.layout.store_lock):
            before = await asyncio.to_thread(self.intake.copy, model, target)
            if before is not None:
                await asyncio.to_thread(self.removal.sweep, before)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """A manifest over another model's layers, or over a GGUF file, with layers of its own for what is stated."""
        async with locked(self.layout.lock(request.name)):
            stage = await asyncio.to_thread(self.intake.stage, request.name)
            try:
                async with closing(self.making.make(request, stage)) as steps:
                    async for step in steps:
                        yield step
                yield PullProgress(status="writing manifest")
                async with locked(self.layout.store_lock):
                    manifest = await asyncio.to_thread(self.making.manifest, stage)
                    before = await asyncio.to_thread(self.intake.install, request.name, stage, manifest)
                    if before is not None:
                        await asyncio.to_thread(self.removal.sweep, before)
                yield PullProgress(status="success")
            finally:
                await asyncio.to_thread(self.intake.discard, stage)
