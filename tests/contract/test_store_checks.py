"""The checks of the stores and of the hub meet the contract of checks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import OllamaFolder, digest, tiny_gguf
from tests.servers.tiny import write_model

from ollmlx import Check, ModelName
from ollmlx.storekit import with_hashes
from ollmlx.testing import CheckContext, CheckSuite, Settings
from ollmlx_hub.check import HubCheck, ModelsCheck
from ollmlx_hub.client import HubSettings
from ollmlx_hub.layout import MlxManifest
from ollmlx_hub.store import MlxStore
from ollmlx_ollama_store.check import DAMAGED, OllamaCheck
from ollmlx_ollama_store.store import OllamaStore


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
            self.sign(self.install("STO007", folder), "org/m")
        stopped = self.install("STO006", ".staging/org_m") / "model.safetensors"
        os.utime(stopped, (1, 1))
        for path in stopped.parent.iterdir():
            os.utime(path, (1, 1))
        return {code: self.context(code) for code in ModelsCheck.codes}

    def install(self, case: str, name: str, **changes: bytes | None) -> Path:
        return write_model(self.root / case / "mlx" / name, **changes)

    def sign(self, folder: Path, name: str) -> None:
        """Write a manifest with this name into the folder."""
        hashes = with_hashes(folder, MlxStore(folder.parent).layout.files(folder))
        MlxManifest(name=ModelName.parse(name), created=datetime(2026, 1, 1, tzinfo=UTC), files=hashes).write(folder)

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


@pytest.mark.finding("MDL003", "STO007")
class TestOllamaCheck(CheckSuite):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.root = tmp_path

    def folder(self, name: str) -> OllamaFolder:
        folder = OllamaFolder(self.root / name)
        folder.add("sound")
        return folder

    def make_check(self) -> Check:
        return OllamaCheck(self.folder("sound").root)

    def make_sick_check(self, code: str) -> Check:
        folder = self.folder(code)
        if code == "MDL003":
            folder.add("m").write_bytes(b"{")
        if code == "STO007":
            folder.add("x", origin="hf.co/org")
            folder.add("x", origin="registry.ollama.ai/org")
        return OllamaCheck(folder.root)

    def healthy(self) -> CheckContext:
        return CheckContext()

    def sick(self) -> Mapping[str, CheckContext]:
        return {code: CheckContext() for code in OllamaCheck.codes}


async def test_each_damaged_model_is_reported_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("cut", {"model": tiny_gguf(fill=1)}, origin="hf.co/org", tag="Q4")
    folder.blob(digest(tiny_gguf(fill=1))).write_bytes(b"short")
    folder.add("big", {}, tag="cloud", remote_host="https://ollama.com", remote_model="big")
    stray = tmp_path / "manifests/registry.ollama.ai/library/a..b/latest"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"{}")
    found = await OllamaCheck(tmp_path).run(CheckContext())
    assert [finding.code for finding in found] == [DAMAGED, DAMAGED]
    assert found[0].title.endswith("a..b/latest is not a model name")
    assert "org/cut:Q4 is damaged: blobs/sha256-" in found[1].title
    assert (found[1].commands, found[1].instead) == (("ollmlx pull hf.co/org/cut:Q4",), ("ollmlx rm org/cut:Q4",))


async def test_a_damaged_model_that_was_made_here_is_not_pulled(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    path = folder.add("mine", {"model": tiny_gguf(fill=1)})
    manifest = json.loads(path.read_bytes())
    manifest["layers"][0]["from"] = "smollm2:135m"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    folder.blob(digest(tiny_gguf(fill=1))).write_bytes(b"short")
    (found,) = await OllamaCheck(tmp_path).run(CheckContext())
    assert found.title.endswith("it was made on this machine")
    assert not [one for one in (*found.commands, *found.instead) if "pull" in one]
    assert found.commands[0].startswith("mv "), "nothing is removed first"


async def test_a_deep_check_hashes_every_blob(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("m", {"model": tiny_gguf(fill=1)})
    blob = folder.blob(digest(tiny_gguf(fill=1)))
    blob.write_bytes(tiny_gguf(fill=2))
    assert await OllamaCheck(tmp_path).run(CheckContext()) == []
    (found,) = await OllamaCheck(tmp_path).run(CheckContext(deep=True))
    assert (found.code, found.subject) == (DAMAGED, blob.name)
    assert found.commands == (
        f"mv {blob} {tmp_path / f'.{blob.name}.moved'}",
        "ollmlx pull registry.ollama.ai/library/m:latest",
    )


async def test_the_second_of_two_models_with_one_name_gets_a_new_name(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("x", origin="hf.co/org", tag="q4")
    folder.add("x", origin="registry.ollama.ai/org", tag="q4")
    (found,) = await OllamaCheck(tmp_path).run(CheckContext())
    assert found.commands == ("ollmlx cp hf.co/org/x:q4 org/x-2:q4", "ollmlx rm hf.co/org/x:q4")
    store = OllamaStore(tmp_path)
    second = await store.resolve(ModelName.parse("hf.co/org/x:q4"))
    assert second is not None
    await store.copy(second, ModelName.parse("org/x-2:q4"))
    await store.delete(second.name)
    assert await OllamaCheck(tmp_path).run(CheckContext()) == []
    assert len(await store.list()) == 2
