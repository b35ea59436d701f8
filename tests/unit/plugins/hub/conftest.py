"""A hub, a store over an empty folder, and a source that knows the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.servers.hub import HubServer
from tests.servers.tiny import tiny_files

from ollmlx import ModelName
from ollmlx.types import PullProgress
from ollmlx_hub.settings import HubAccess
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore

REPO = "mlx-community/Tiny-4bit"


@pytest.fixture
def hub(no_leaked_descriptors: None) -> Iterator[HubServer]:
    """A hub with one good model."""
    from huggingface_hub import close_session

    with HubServer() as server:
        server.add(REPO, tiny_files(weights=900_000))
        yield server
        close_session()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models" / "mlx"


@pytest.fixture
def store(models: Path) -> MlxStore:
    return MlxStore(models)


@pytest.fixture
def source(hub: HubServer) -> HubSource:
    return HubSource(HubAccess(hub.url), attempts=3, sleep=no_wait)


async def no_wait(seconds: float) -> None:
    """Retries need no pause here."""


@pytest.fixture
def name() -> ModelName:
    return ModelName.parse(REPO)


@pytest.fixture
def put(models: Path) -> Callable[..., Path]:
    """Copies a tiny model's files into the folder by hand, without a manifest."""

    def copy(folder: str, files: dict[str, bytes] | None = None) -> Path:
        place = models / folder
        for path, data in (files or tiny_files()).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        return place

    return copy


async def pulled(store: MlxStore, source: HubSource, name: ModelName) -> list[PullProgress]:
    """All progress of one pull."""
    return [step async for step in store.pull(name, source, None)]
