"""The choice of a store for a new model that a named backend will run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ollmlx import Store
from ollmlx.errors import Unsupported
from ollmlx.plugin.registry import Registry


class Keeper(SimpleNamespace):
    """A store that keeps GGUF files."""

    keeps = ("gguf",)


MLX = cast(Store, SimpleNamespace(name="mlx"))
OLLAMA = cast(Store, Keeper(name="ollama"))


@pytest.fixture
def registry() -> Registry:
    """The backend mlx imports both formats, and llamacpp runs files as they are."""
    found = Registry()
    for name, program in (("mlx", "a program"), ("llamacpp", None)):
        backend = SimpleNamespace(name=name, importer=lambda format, program=program: program)
        found.backends.add(name, cast(Any, backend), name)
    return found


@pytest.mark.parametrize("stores", [(MLX, OLLAMA), (OLLAMA, MLX)])
@pytest.mark.parametrize(
    ("format", "backend", "home"), [("gguf", "llamacpp", OLLAMA), ("gguf", "mlx", MLX), ("mlx", "mlx", None)]
)
def test_a_file_is_kept_where_its_backend_finds_it(
    registry: Registry, stores: tuple[Store, ...], format: str, backend: str, home: Store | None
) -> None:
    assert registry.store_for(format, backend, stores) is home


def test_a_file_that_no_store_keeps_for_its_backend_is_refused(registry: Registry) -> None:
    with pytest.raises(Unsupported, match="no store keeps the format 'gguf' for the backend 'llamacpp'"):
        registry.store_for("gguf", "llamacpp", (MLX,))
    with pytest.raises(Unsupported, match="no backend 'none' is installed; there is mlx, llamacpp"):
        registry.store_for("gguf", "none", (MLX,))
