"""Attack: a folder of manifests that cannot be listed. Taken as empty, it cost its models their shared layers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers

from ollmlx import ModelName
from ollmlx.types import CreateRequest, ModelDefaults
from ollmlx_ollama_store.check import OllamaCheck
from ollmlx_ollama_store.store import OllamaStore

NOBODY = 65534


@pytest.fixture
def ollama() -> Iterator[OllamaFolder]:
    """Two models with the same weights, in two registries' folders, for a user whom permissions bind."""
    place = Path(tempfile.mkdtemp())
    folder = OllamaFolder(place / "models")
    folder.add("doomed", usual_layers(tiny_gguf(fill=1)))
    folder.add("kept", usual_layers(tiny_gguf(fill=1)), origin="hf.co/org")
    privileged = os.geteuid() == 0
    if privileged:
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if privileged:
            os.seteuid(0)
        for path in (folder.root / "manifests").rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(place)


def hide(folder: Path, way: str) -> None:
    """Make a folder impossible to list: by its permissions, or as a link to a disk that is not mounted."""
    if way in ("unmounted", "loop"):
        folder.rename(folder.with_name("." + folder.name))
        folder.symlink_to(folder if way == "loop" else folder.with_name("absent"))
    else:
        folder.chmod(int(way, 8))


@pytest.mark.parametrize("depth", ["hf.co", "hf.co/org", "hf.co/org/kept"])
@pytest.mark.parametrize("way", ["000", "100", "400", "unmounted", "loop"])
async def test_no_layer_is_removed_while_a_folder_of_manifests_cannot_be_listed(
    ollama: OllamaFolder, caplog: pytest.LogCaptureFixture, way: str, depth: str
) -> None:
    before = ollama.blobs()
    hide(ollama.root / "manifests" / depth, way)
    store = OllamaStore(ollama.root)
    await store.delete(ModelName.parse("doomed"))
    assert ollama.blobs() == before
    assert "no layer is removed" in caplog.text
    assert [model.name.short for model in await store.list()] == [], "the one is deleted, the other is hidden"
    context = cast("Any", SimpleNamespace(deep=False))
    findings = await OllamaCheck(ollama.root).run(context)
    assert any(depth.rpartition("/")[2] in finding.title for finding in findings), "the doctor says what is hidden"


async def test_no_layer_is_removed_when_the_manifests_are_gone(ollama: OllamaFolder) -> None:
    store = OllamaStore(ollama.root)
    manifest, _ = store.layout.manifest(store.layout.target(ModelName.parse("doomed")))
    before = ollama.blobs()
    (ollama.root / "manifests").rename(ollama.root / "another disk")
    store.installer._remove_unused(manifest)
    assert ollama.blobs() == before


async def test_a_replaced_model_costs_no_hidden_model_its_layers(ollama: OllamaFolder) -> None:
    store, name = OllamaStore(ollama.root), ModelName.parse("doomed")
    model = await store.resolve(name)
    assert model is not None
    before = ollama.blobs()
    hide(ollama.root / "manifests/hf.co", "000")
    request = CreateRequest(name=name, base=model, defaults=ModelDefaults(system="another"))
    assert [step.status async for step in store.create(request, None)][-1] == "success"
    assert ollama.blobs() > before
