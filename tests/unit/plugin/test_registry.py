"""Which store a new model goes to when a backend is asked for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ollmlx import Store
from ollmlx.errors import Unsupported
from ollmlx.plugin.registry import Registry


class AnyStore:
    """A store by its name only."""

    def __init__(self, name: str, *keeps: str) -> None:
        self.name = name
        if keeps:
            self.keeps = keeps


class AnyBackend:
    """Imports these formats, and runs others as they are."""

    def __init__(self, name: str, *imports: str) -> None:
        self.name = name
        self._imports = imports

    def importer(self, format: str) -> str | None:
        return "a program" if format in self._imports else None


MLX, OLLAMA = cast(Store, AnyStore("mlx")), cast(Store, AnyStore("ollama", "gguf"))


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    for each in (AnyBackend("mlx", "gguf", "mlx"), AnyBackend("llamacpp")):
        found.backends.add(each.name, cast(Any, each), each.name)
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
