"""The check of Ollama's own models keeps the contract of every check."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.servers.ollama_folder import OllamaFolder, digest, tiny_gguf

from ollmlx import Check
from ollmlx.errors import Unsupported
from ollmlx.testing import CheckSuite, World
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.check import DAMAGED, OllamaCheck


def nobody(model: InstalledModel) -> Any:
    raise Unsupported(f"no backend can run {model.name.short}", hint="pip install 'ollmlx[llamacpp]'; restart")


def world(*, runs: bool = True, deep: bool = False) -> World:
    """A world with the backends' answer in it."""
    registry = SimpleNamespace(backend_for=(lambda model: model) if runs else nobody)
    return World(plugins=SimpleNamespace(registry=registry), deep=deep)  # type: ignore[arg-type] # as much as is asked


@pytest.mark.finding("STO020", "STO021", "STO022")
class TestOllamaCheck(CheckSuite):
    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path: Path) -> None:
        self.place = tmp_path

    def folder(self, name: str) -> OllamaFolder:
        folder = OllamaFolder(self.place / name)
        folder.add("sound")
        return folder

    def make_check(self) -> Check:
        return OllamaCheck(self.folder("sound").root)

    def make_sick_check(self, code: str) -> Check:
        folder = self.folder(code)
        if code == DAMAGED:
            folder.add("m").write_bytes(b"{")
        if code == "STO022":
            folder.add("x", place="hf.co/org")
            folder.add("x", place="registry.ollama.ai/org")
        return OllamaCheck(folder.root)

    def runbooks(self) -> Traversable:
        return files("ollmlx_ollama_store") / "diagnostics"

    def healthy(self) -> World:
        return world()

    def sick(self) -> Mapping[str, World]:
        return {"STO020": world(), "STO021": world(runs=False), "STO022": world()}


async def test_damage_is_told_model_by_model_with_what_mends_it(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("cut", {"model": tiny_gguf(fill=1)}, place="hf.co/org", tag="Q4")
    folder.blob(digest(tiny_gguf(fill=1))).write_bytes(b"short")
    folder.add("big", {}, tag="cloud", remote_host="https://ollama.com", remote_model="big")
    stray = tmp_path / "manifests/registry.ollama.ai/library/a..b/latest"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"{}")
    found = await OllamaCheck(tmp_path).run(world())
    assert [finding.code for finding in found] == [DAMAGED, DAMAGED]
    assert found[0].title.endswith("a..b/latest is no model's name")
    assert "org/cut:Q4 is damaged: blobs/sha256-" in found[1].title
    assert found[1].commands[0] == "ollmlx pull hf.co/org/cut:Q4"


async def test_a_deep_look_hashes_every_blob(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    folder.add("m", {"model": tiny_gguf(fill=1)})
    blob = folder.blob(digest(tiny_gguf(fill=1)))
    blob.write_bytes(tiny_gguf(fill=2))
    assert await OllamaCheck(tmp_path).run(world()) == []
    (found,) = await OllamaCheck(tmp_path).run(world(deep=True))
    assert (found.code, found.subject) == (DAMAGED, blob.name)


async def test_models_that_nothing_runs_are_told_in_one_finding_with_the_command(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    for number in range(10):
        folder.add(f"m{number}", {"model": tiny_gguf(fill=number)})
    (found,) = await OllamaCheck(tmp_path).run(world(runs=False))
    assert found.title == "nothing here runs 10 of Ollama's models"
    assert found.evidence[0] == "m0, m1, m2, m3, m4, m5, m6, m7 and 2 more"
    assert found.commands == ("pip install 'ollmlx[llamacpp]'", "restart")
