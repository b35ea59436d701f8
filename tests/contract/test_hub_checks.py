"""The checks of the MLX store and of the hub meet the contract of checks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.servers.hub import HubServer
from tests.servers.tiny import tiny_files

from ollmlx import Check, ModelName
from ollmlx.storekit import with_hashes
from ollmlx.testing import CheckContext, CheckSuite, Settings
from ollmlx_hub.check import HubCheck, ModelsCheck
from ollmlx_hub.client import HubSettings
from ollmlx_hub.layout import MlxManifest
from ollmlx_hub.store import MlxStore


class TestModelsCheck(CheckSuite):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.root = tmp_path

    def make_check(self) -> Check:
        return ModelsCheck()

    def healthy(self) -> CheckContext:
        self.install("healthy", "org_sound")
        return self.context("healthy")

    def sick(self) -> Mapping[str, CheckContext]:
        self.install("MDL001", "a..b")
        self.install("MDL003", "org_m", config__json=None)
        self.install("MDL010", "org_m", tokenizer_config__json=b"{}")
        self.sign(self.install("STO007", "org_m"), "org/other")
        for folder in ("org_m", "org_n"):
            self.sign(self.install("STO008", folder), "org/m")
        stopped = self.install("STO006", ".staging/org_m") / "model.safetensors"
        os.utime(stopped, (1, 1))
        for path in stopped.parent.iterdir():
            os.utime(path, (1, 1))
        return {code: self.context(code) for code in ModelsCheck.codes}

    def install(self, case: str, name: str, **changes: bytes | None) -> Path:
        """A folder of the store; `config__json=None` leaves that file out."""
        folder = self.root / case / "mlx" / name
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, bytes | None] = {**tiny_files()}
        files |= {path.replace("__", "."): data for path, data in changes.items()}
        for path, data in files.items():
            if data is not None:
                (folder / path).write_bytes(data)
        return folder

    def sign(self, folder: Path, name: str) -> None:
        """Write a manifest with this name into the folder."""
        files = with_hashes(folder, MlxStore(folder.parent).layout.files(folder))
        MlxManifest(name=ModelName.parse(name), created=datetime(2026, 1, 1, tzinfo=UTC), files=files).write(folder)

    def context(self, case: str) -> CheckContext:
        settings = Settings.model_validate({"storage": {"models": self.root / case}})
        return CheckContext(settings=settings)


class TestHubCheck(CheckSuite):
    @pytest.fixture(autouse=True)
    def _hub(self, no_leaked_descriptors: None, free_port: int) -> Iterator[None]:
        from huggingface_hub import close_session

        with HubServer() as self.hub:
            self.hub.token = "right"
            self.nowhere = f"http://127.0.0.1:{free_port}"
            yield
            close_session()

    def make_check(self) -> Check:
        return HubCheck(HubSettings(endpoint=self.hub.url))

    def make_sick_check(self, code: str) -> Check:
        return HubCheck(HubSettings(endpoint=self.nowhere)) if code == "NET005" else self.make_check()

    def healthy(self) -> CheckContext:
        return CheckContext(online=True)

    def sick(self) -> Mapping[str, CheckContext]:
        return {
            "NET005": CheckContext(online=True),
            "NET006": CheckContext(online=True, environ={"HF_TOKEN": "hf_wrong"}),
        }
