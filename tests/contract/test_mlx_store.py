"""The store of MLX models keeps the contract of every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from tests.servers.tiny import tiny_files

from ollmlx import ModelName, Source, Store
from ollmlx.testing import StoreSuite
from ollmlx.types import InstalledModel, PullProgress
from ollmlx_hub.store import MlxStore


class Shelf:
    """A source with one tiny model; what lies there already is not fetched again."""

    name = "shelf"
    store = "mlx"

    def provides(self, name: ModelName) -> str | None:
        return f"shelf:{name}"

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
        place = folder / name.folder
        place.mkdir()
        for path, data in tiny_files().items():
            (place / path).write_bytes(data)

    def make_source(self) -> Source:
        return Shelf()

    def damage(self, model: InstalledModel) -> bool:
        (model.path / "config.json").unlink()
        return True
