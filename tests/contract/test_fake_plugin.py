"""The plugin with fake models meets the contracts of backends and of stores."""

from __future__ import annotations

from pathlib import Path

from ollmlx import Backend, ModelName, Source, Store
from ollmlx.testing import BackendSuite, StoreSuite, fake_model
from ollmlx.testing.fake import FakeBackend
from ollmlx.testing.fake.source import FakeSource
from ollmlx.testing.fake.store import MANIFEST, FakeStore
from ollmlx.types import InstalledModel


class TestFakeBackend(BackendSuite):
    def make_backend(self) -> Backend:
        return FakeBackend()

    def make_model(self, folder: Path) -> InstalledModel:
        return fake_model()

    def make_bad_model(self, model: InstalledModel, folder: Path) -> InstalledModel:
        return fake_model(info={"fake": {"load_fault": "bad_model"}})


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
