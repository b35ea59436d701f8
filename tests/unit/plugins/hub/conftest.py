"""A hub, a store over an empty folder, and pulls from the one into the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.hub import HubServer
from tests.servers.serving import no_wait
from tests.servers.tiny import tiny_files, write_model

from ollmlx import ModelName
from ollmlx.types import InstalledModel, PullProgress
from ollmlx_hub.client import HubAccess
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore

REPO = "mlx-community/Tiny-4bit"


@pytest.fixture
def hub(no_leaked_descriptors: None) -> Iterator[HubServer]:
    """A hub with one usable model."""
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
def put(models: Path) -> Callable[..., Path]:
    """Writes a tiny model into a folder of the store, without a manifest, as a person would do by hand."""
    return lambda name, files=None: write_model(models / name, files)


@pytest.fixture
def tiny(put: Callable[..., Path]) -> Path:
    """The folder of the model `tiny`."""
    return put("tiny")


async def found(store: MlxStore, name: str) -> InstalledModel:
    """The model of a name, which must be there."""
    model = await store.resolve(ModelName.parse(name))
    assert model is not None
    return model


LOOPBACK = ("127.0.0.1", "localhost")
Pull = Callable[..., Awaitable[list[PullProgress]]]


@pytest.fixture
def pull(hub: HubServer, store: MlxStore) -> Pull:
    """Pulls a repository into the store, and returns all progress."""

    async def run(name: str = REPO, *, url: str = hub.url, token: str | None = None, attempts: int = 3) -> Any:
        source = HubSource(HubAccess(url, token), private_hosts=LOOPBACK, attempts=attempts, sleep=no_wait)
        return [step async for step in store.pull(ModelName.parse(name), source, None)]

    return run
