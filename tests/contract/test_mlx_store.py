"""The store of MLX models meets the contract of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from tests.servers.tiny import tiny_files

from ollmlx import ModelName, Source, Store
from ollmlx.testing import StoreSuite
from ollmlx.types import InstalledModel, PullProgress
from ollmlx_hub.store import MlxStore


class TinySource:
    """A source of one tiny model."""

    name = "tiny"
    store = "mlx"

    def provides(self, name: ModelName) -> str | None:
        return f"tiny:{name}"

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        files = tiny_files()
        for count, (path, data) in enumerate(files.items(), 1):
            (into / path).write_bytes(data)
            yield PullProgress(status="pulling files", total=len(files), completed=count)


class TestMlxStore(StoreSuite):
    def make_store(self, folder: Path) -> Store:
        return MlxStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        (folder / name.folder).mkdir()
        for path, data in tiny_files().items():
            (folder / name.folder / path).write_bytes(data)

    def make_source(self) -> Source:
        return TinySource()

    def damage(self, model: InstalledModel) -> bool:
        (model.path / "config.json").unlink()
        return True
