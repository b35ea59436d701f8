"""The store of MLX models keeps the contract of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from tests.servers.tiny import tiny_files

from ollmlx import ModelName, Source, Store
from ollmlx.testing import StoreSuite
from ollmlx.types import InstalledModel, PullProgress
from ollmlx_hub.store import MlxStore


class TinySource:
    """Writes the tiny model's files, and no receipt: the least a source can do."""

    name, store = "tiny", "mlx"

    def provides(self, name: ModelName) -> str | None:
        return f"tiny:{name.short}"

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        files = tiny_files()
        total = sum(len(data) for data in files.values())
        completed = 0
        for path, data in files.items():
            (into / path).write_bytes(data)
            completed += len(data)
            yield PullProgress(status="pulling tiny", total=total, completed=completed)


class TestMlxStore(StoreSuite):
    def make_store(self, folder: Path) -> Store:
        return MlxStore(folder / "mlx")

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        async for _ in store.pull(name, TinySource(), None):
            pass

    def make_source(self) -> Source:
        return TinySource()

    def damage(self, model: InstalledModel) -> bool:
        weights = model.path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        return True


class TestMlxStoreWithHandCopiedModels(StoreSuite):
    def make_store(self, folder: Path) -> Store:
        return MlxStore(folder / "mlx")

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        place = folder / "mlx" / name.folder
        place.mkdir(parents=True)
        for path, data in tiny_files().items():
            (place / path).write_bytes(data)

    def damage(self, model: InstalledModel) -> bool:
        (model.path / "config.json").write_text("{")
        return True
