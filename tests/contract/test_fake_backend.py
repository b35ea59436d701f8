"""The fake backend keeps the contract that it is used to test others with."""

from __future__ import annotations

from pathlib import Path

from ollmlx import Backend
from ollmlx.testing import BackendSuite, fake_model
from ollmlx.testing.fake import FakeBackend
from ollmlx.types import InstalledModel


class TestFakeBackend(BackendSuite):
    def make_backend(self) -> Backend:
        return FakeBackend()

    def make_model(self, folder: Path) -> InstalledModel:
        return fake_model()

    def make_bad_model(self, model: InstalledModel, folder: Path) -> InstalledModel:
        return fake_model(info={"fake": {"load_fault": "bad_model"}})
