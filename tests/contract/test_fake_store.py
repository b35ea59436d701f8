"""The fake store meets the contract of stores."""

from __future__ import annotations

from pathlib import Path

from ollmlx import ModelName, Source, Store
from ollmlx.testing import StoreSuite, fake_model
from ollmlx.testing.fake.source import FakeSource
from ollmlx.testing.fake.store import MANIFEST, FakeStore
from ollmlx.types import InstalledModel


class TestFakeStore(StoreSuite):
    pulled = "fake/parrot"

    def make_store(self, folder: Path) -> Store:
        return FakeStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        await store.copy(fake_model(), name)

    def make_source(self) -> Source:
        return FakeSource()

    def damage(self, model: InstalledModel) -> bool:
        (model.path / MANIFEST).write_text("{", encoding="utf-8")
        return True
