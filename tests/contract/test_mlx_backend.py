"""The MLX backend, with the real model, keeps the contract of every backend."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

import pytest

from ollmlx import Backend, ModelName
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite
from ollmlx.types import InstalledModel
from ollmlx_hub.store import MlxStore

pytestmark = [pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]


@cache
def registered() -> Backend:
    """As the daemon has it."""
    backend = load_plugins(Settings()).registry.backends.get("mlx")
    assert backend is not None
    return backend


class TestMlxBackend(BackendSuite):
    context_length = 256

    def make_backend(self) -> Backend:
        return registered()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, smollm2_models: Path) -> InstalledModel:
        found = asyncio.run(MlxStore(smollm2_models / "mlx").resolve(ModelName.parse("smollm2:135m")))
        assert found is not None
        return found
