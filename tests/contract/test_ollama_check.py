"""The check of Ollama's models meets the contract of checks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
from tests.servers.ollama_folder import OllamaFolder, digest, tiny_gguf

from ollmlx import Check, ModelName
from ollmlx.testing import CheckContext, CheckSuite
from ollmlx_ollama_store.check import DAMAGED, OllamaCheck
from ollmlx_ollama_store.store import OllamaStore


@pytest.mark.finding("STO020", "STO022")
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
        if code == "STO020":
            folder.add("m").write_bytes(b"{")
        if code == "STO022":
            folder.add("x", origin="hf.co/org")
            folder.add("x", origin="registry.ollama.ai/org")
        return OllamaCheck(folder.root)

    def runbooks(self) -> Traversable:
        return files("ollmlx_ollama_store") / "diagnostics"

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


async def test_a_deep_check_hashes_every_blob(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("m", {"model": tiny_gguf(fill=1)})
    blob = folder.blob(digest(tiny_gguf(fill=1)))
    blob.write_bytes(tiny_gguf(fill=2))
    assert await OllamaCheck(tmp_path).run(CheckContext()) == []
    (found,) = await OllamaCheck(tmp_path).run(CheckContext(deep=True))
    assert (found.code, found.subject) == (DAMAGED, blob.name)
    assert found.commands == (f"rm {blob}", "ollmlx pull registry.ollama.ai/library/m:latest")


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
