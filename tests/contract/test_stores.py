"""The stores of MLX models and of Ollama's models meet the contract of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.servers.ollama_folder import OllamaFolder
from tests.servers.registry import RegistryServer
from tests.servers.tiny import FileSource, tiny_files, write_model

from ollmlx import ModelName, Source, Store
from ollmlx.testing import StoreSuite
from ollmlx.types import InstalledModel, PullProgress
from ollmlx_hub.store import MlxStore
from ollmlx_ollama_store.source import OllamaSource
from ollmlx_ollama_store.store import OllamaStore


class TestMlxStore(StoreSuite):
    def make_store(self, folder: Path) -> Store:
        return MlxStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        write_model(folder / name.folder)

    def make_source(self) -> Source:
        return FileSource(tiny_files(), "mlx")

    def damage(self, model: InstalledModel) -> bool:
        (model.path / "config.json").unlink()
        return True


class InsecureSource(OllamaSource):
    """A source that uses plain HTTP: the registry of the test has no certificate."""

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        async for step in super().fetch(name, into, insecure=True):
            yield step


class TestOllamaStore(StoreSuite):
    pulled = "model"

    @pytest.fixture(autouse=True)
    def _registry(self) -> Iterator[None]:
        with RegistryServer() as self.registry:
            self.registry.add("library/model:latest")
            yield

    def make_source(self) -> Source:
        return InsecureSource(self.registry.host, private_hosts=("localhost",))

    def make_store(self, folder: Path) -> Store:
        return OllamaStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        OllamaFolder(folder).add(name.name, origin=f"registry.ollama.ai/{name.org}")

    def damage(self, model: InstalledModel) -> bool:
        model.path.unlink()
        return True
