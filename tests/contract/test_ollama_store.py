"""The store of Ollama's own models keeps the contract of every store."""

from __future__ import annotations

from pathlib import Path

from tests.servers.ollama_folder import OllamaFolder

from ollmlx import ModelName, Store
from ollmlx.testing import StoreSuite
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.store import OllamaStore


class TestOllamaStore(StoreSuite):
    def make_store(self, folder: Path) -> Store:
        return OllamaStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        OllamaFolder(folder).add(name.name, place=f"registry.ollama.ai/{name.org}")

    def damage(self, model: InstalledModel) -> bool:
        model.path.unlink()
        return True
