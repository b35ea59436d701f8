"""Ollama's models folder, and the store over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.servers.ollama_folder import OllamaFolder

from ollmlx import ModelName
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.store import OllamaStore


@pytest.fixture
def ollama(tmp_path: Path) -> OllamaFolder:
    return OllamaFolder(tmp_path / "models")


@pytest.fixture
def store(ollama: OllamaFolder) -> OllamaStore:
    return OllamaStore(ollama.root)


async def found(store: OllamaStore, name: str) -> InstalledModel:
    """The model of a name, which must be there."""
    model = await store.resolve(ModelName.parse(name))
    assert model is not None
    return model


async def listed(store: OllamaStore) -> list[str]:
    """The names of all listed models."""
    return [model.name.short for model in await store.list()]
