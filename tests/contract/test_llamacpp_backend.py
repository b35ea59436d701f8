"""The llama.cpp backend, with the real model, keeps the contract of every backend."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ollmlx import Backend
from ollmlx.plugins import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, fake_model
from ollmlx.types import InstalledModel

pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
pytestmark = [pytest.mark.model, pytest.mark.slow]


@cache
def registered() -> Backend:
    """As the daemon has it; one thread, because test machines are shared and llama.cpp's threads wait by spinning."""
    settings = Settings.model_validate({"plugins": {"llamacpp": {"threads": 1}}})
    backend = load_plugins(settings).registry.backends.get("llamacpp")
    assert backend is not None
    return backend


class TestLlamaCppBackend(BackendSuite):
    context_length = 256

    def make_backend(self) -> Backend:
        return registered()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, smollm2_gguf: Path) -> InstalledModel:
        return fake_model(format="gguf", path=smollm2_gguf, capabilities=("completion",))
