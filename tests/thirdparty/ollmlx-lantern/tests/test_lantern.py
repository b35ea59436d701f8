"""Everything that the distribution brings keeps its contract: each suite in five lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ollmlx_lantern.backend import LanternBackend
from ollmlx_lantern.check import OilCheck
from ollmlx_lantern.routes import family
from ollmlx_lantern.store import MANIFEST, LanternStore
from quart import Blueprint

from ollmlx import Backend, Check, ModelName, Service, Source, Store
from ollmlx.testing import BackendSuite, CheckSuite, RoutesSuite, StoreSuite, World, fake_model
from ollmlx.testing.fake.source import FakeSource
from ollmlx.types import InstalledModel


class TestLanternBackend(BackendSuite):
    structured = logprobs = tokenizes = False

    def make_backend(self) -> Backend:
        return LanternBackend()

    def make_model(self, folder: Path) -> InstalledModel:
        (folder / "light.txt").write_text("Light!", encoding="utf-8")
        return fake_model(format="lantern", path=folder, capabilities=["completion"])


class TestLanternStore(StoreSuite):
    pulled = "fake/parrot"

    def make_store(self, folder: Path) -> Store:
        return LanternStore(folder)

    async def install(self, store: Store, name: ModelName, folder: Path) -> None:
        stage = folder / ".stage"
        stage.mkdir()
        (stage / "light.txt").write_bytes(b"Light!")
        LanternStore(folder).settle(name, stage, format="lantern", source="local")

    def make_source(self) -> Source:
        return FakeSource()

    def damage(self, model: InstalledModel) -> bool:
        (model.path / MANIFEST).write_text("{", encoding="utf-8")
        return True


class TestLanternRoutes(RoutesSuite):
    body = {"text": "x"}

    def make_routes(self) -> Callable[[Service], Blueprint]:
        return family(10)


class TestOilCheck(CheckSuite):
    def make_check(self) -> Check:
        return OilCheck(10)

    def make_sick_check(self, code: str) -> Check:
        return OilCheck(1)

    def runbooks(self) -> Traversable:
        return files("ollmlx_lantern") / "pages"

    def healthy(self) -> World:
        return World()

    def sick(self) -> Mapping[str, World]:
        return {"LAN001": World()}
