"""Each backend, store, route family and check of ollmlx's own plugins is run through the suite of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ollmlx import Backend, ModelName, Source, Store
from ollmlx.plugin.contracts import is_read_only
from ollmlx.plugin.loader import load_plugins
from ollmlx.plugin.registry import PluginItems
from ollmlx.settings import Settings
from ollmlx.testing import BackendSuite, StoreSuite, fake_model
from ollmlx.testing.fake import FakeBackend
from ollmlx.testing.fake.source import FakeSource
from ollmlx.testing.fake.store import MANIFEST, FakeStore
from ollmlx.types import InstalledModel

HERE = Path(__file__).parent
HELD = {
    ("BackendSuite", "mlx"): "test_mlx_backend.py",
    ("BackendSuite", "cluster"): "test_mlx_cluster.py",
    ("BackendSuite", "llamacpp"): "test_llamacpp_backend.py",
    ("BackendSuite", "mlx_vlm"): "test_mlx_vlm.py",
    ("BackendSuite", "speech"): "test_speech.py",
    ("StoreSuite", "mlx"): "test_stores.py",
    ("StoreSuite", "ollama"): "test_stores.py",
    ("RoutesSuite", "ollama"): "test_route_families.py",
    ("RoutesSuite", "openai"): "test_route_families.py",
    ("RoutesSuite", "anthropic"): "test_route_families.py",
    ("RoutesSuite", "ops"): "test_route_families.py",
    ("RoutesSuite", "page"): "test_route_families.py",
    ("CheckSuite", "models"): "test_store_checks.py",
    ("CheckSuite", "hub"): "test_store_checks.py",
    ("CheckSuite", "cluster"): "test_mlx_check.py",
    ("CheckSuite", "pictures"): "test_mlx_vlm.py",
    ("CheckSuite", "speech"): "test_speech.py",
    ("CheckSuite", "loadable"): "test_mlx_check.py",
    ("CheckSuite", "ollama-models"): "test_store_checks.py",
    ("CheckSuite", "llama.cpp"): "test_llamacpp_check.py",
}
"""Suite and registered name -> where it runs."""


def registered() -> list[tuple[str, str]]:
    """Every backend, store, route family and check of ollmlx's own plugins, those that settings bring included.

    A store that is only read has no suite: the suite of stores is about changes.
    """
    cluster = {"big": {"cluster": {"hosts": ["localhost"]}}}
    registry = load_plugins(Settings.model_validate({"models": cluster})).registry
    tables: dict[str, PluginItems[Any]] = {
        "BackendSuite": registry.backends,
        "StoreSuite": registry.stores,
        "RoutesSuite": registry.routes,
        "CheckSuite": registry.checks,
    }
    read_only = {store.name for store in registry.stores.values() if is_read_only(store)}
    return [
        (suite, name)
        for suite, table in tables.items()
        for name in table.names()
        if suite != "StoreSuite" or name not in read_only
    ]


@pytest.mark.parametrize("what", registered(), ids="-".join)
def test_it_is_held_to_its_suite(what: tuple[str, str]) -> None:
    assert what in HELD, f"no file of tests/contract runs {what[0]} over it"
    suite, _ = what
    assert f"({suite})" in (HERE / HELD[what]).read_text(encoding="utf-8")


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
