"""Models that are deleted, copied, created and pulled: the folder is written as Ollama would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.servers.ollama_folder import OllamaFolder, digest, image, tiny_gguf, usual_layers
from tests.servers.tiny import FileSource
from tests.unit.plugins.ollama_store.conftest import found

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import InvalidRequest, StorageError, Unsupported
from ollmlx.types import CreateRequest, Message, ModelDefaults, Options
from ollmlx_ollama_store.store import OllamaStore


def manifest(ollama: OllamaFolder, name: str) -> dict[str, Any]:
    path = ollama.root / "manifests/registry.ollama.ai/library" / name / "latest"
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read


def layers(ollama: OllamaFolder, name: str) -> dict[str, bytes]:
    return {
        layer["mediaType"].rpartition(".")[2]: ollama.blob(layer["digest"]).read_bytes()
        for layer in manifest(ollama, name)["layers"]
        if "model" not in layer["mediaType"]
    }


async def create(store: OllamaStore, name: str, **fields: Any) -> list[str]:
    request = CreateRequest(name=ModelName.parse(name), **fields)
    return [step.status async for step in store.create(request, None)]


# -- delete ---------------------------------------------------------------------------------------------------------


async def test_deleting_keeps_the_layers_that_another_model_needs(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("b", usual_layers(tiny_gguf(fill=2)))
    ollama.add("same-weights", {"model": tiny_gguf(fill=1)}, origin="hf.co/org")
    others = ollama.blobs()
    ollama.add("a", usual_layers(tiny_gguf(fill=1)))
    assert len(ollama.blobs() - others) == 1, "its configuration; everything else is shared"
    await store.delete(ModelName.parse("a"))
    assert ollama.blobs() == others
    await store.delete(ModelName.parse("org/same-weights"))
    assert digest(tiny_gguf(fill=1)).replace(":", "-") not in ollama.blobs()
    await store.delete(ModelName.parse("b"))
    assert ollama.blobs() == set()
    assert list((ollama.root / "manifests").iterdir()) == []


async def test_nothing_is_removed_while_a_manifest_cannot_be_read(
    ollama: OllamaFolder, store: OllamaStore, caplog: pytest.LogCaptureFixture
) -> None:
    ollama.add("a")
    ollama.add("b").write_bytes(b"{")
    before = ollama.blobs()
    await store.delete(ModelName.parse("a"))
    assert ollama.blobs() == before
    assert "no layer is removed: manifests/registry.ollama.ai/library/b/latest is damaged" in caplog.text


async def test_a_folder_that_cannot_be_written_is_an_error(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("a")
    model = await found(store, "a")
    (ollama.root / ".ollmlx").write_text("a file where a folder has to be")
    before = ollama.contents()
    for change in (store.delete(model.name), store.copy(model, ModelName.parse("b"))):
        with pytest.raises(StorageError, match="cannot write to the models folder"):
            await change
    assert ollama.contents() == before


# -- copy -----------------------------------------------------------------------------------------------------------


async def test_a_copy_is_the_same_manifest_and_no_new_blob(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("a", origin="hf.co/org")
    before = ollama.blobs()
    model = await found(store, "org/a")
    renamed = model.model_copy(update={"name": ModelName.parse("an-alias")})
    await store.copy(renamed, ModelName.parse("b"))
    assert (await found(store, "b")).digest == model.digest
    assert ollama.blobs() == before


async def test_a_copy_over_another_model_removes_the_layers_of_that_model(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("a", {"model": tiny_gguf(fill=1)})
    ollama.add("b", {"model": tiny_gguf(fill=2)})
    await store.copy(await found(store, "a"), ModelName.parse("B"))
    assert {model.name.short for model in await store.list()} == {"a", "b"}
    assert digest(tiny_gguf(fill=2)).replace(":", "-") not in ollama.blobs()


# -- create ---------------------------------------------------------------------------------------------------------


async def test_a_model_over_another_keeps_its_layers_and_adds_its_own(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("a")
    defaults = ModelDefaults(
        system="Be kind.", options=Options(temperature=0.1), messages=(Message(role="user", content="hi"),)
    )
    steps = await create(store, "b", base=await found(store, "a"), defaults=defaults)
    assert steps[-2:] == ["writing manifest", "success"]
    assert any(step.startswith("using existing layer sha256:") for step in steps)
    kept, made = layers(ollama, "a"), layers(ollama, "b")
    assert made["template"] == kept["template"]
    assert made["license"] == kept["license"]
    assert made["system"] == b"Be kind."
    assert json.loads(made["params"]) == {"stop": ["<|im_end|>"], "temperature": 0.1, "num_gpu": 1}
    assert json.loads(made["messages"]) == [{"role": "user", "content": "hi"}]
    weights = manifest(ollama, "b")["layers"][0]
    assert weights["digest"] == digest(tiny_gguf())
    assert weights["from"] == "a:latest"
    assert (await found(store, "b")).details.parent_model == "a:latest"
    config = json.loads(ollama.blob(manifest(ollama, "b")["config"]["digest"]).read_bytes())
    assert config["model_type"] == "134.52M"
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest(ollama, "b")["layers"]]


async def test_a_model_is_made_from_gguf_files(ollama: OllamaFolder, store: OllamaStore, tmp_path: Path) -> None:
    weights, clip = tmp_path / "w.gguf", tmp_path / "clip.gguf"
    weights.write_bytes(tiny_gguf(file_type=7))
    clip.write_bytes(tiny_gguf(architecture="clip"))
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "lora.gguf").write_bytes(b"GGUF lora")
    files = {"mmproj.gguf": clip, "w.gguf": weights}
    await create(store, "m", files=files, defaults=ModelDefaults(adapter=adapter, template="{{ .Prompt }}"))
    model = await found(store, "m")
    assert model.path.read_bytes() == weights.read_bytes()
    assert model.details.quantization_level == "Q8_0"
    assert model.details.parameter_size == "64"
    assert model.defaults.projector == ollama.blob(digest(clip.read_bytes()))
    assert model.defaults.adapter == ollama.blob(digest(b"GGUF lora"))
    assert model.chat_template == model.defaults.template == "{{ .Prompt }}", "it was stated, so it is used"
    assert not any((ollama.root / ".ollmlx" / "staging").iterdir())


NO_ADAPTER = {"defaults": ModelDefaults(adapter=Path("/nowhere/none"))}


@pytest.mark.parametrize(
    ("files", "fields", "kind", "words"),
    [
        ({"model.safetensors": b""}, {}, Unsupported, "made from GGUF files"),
        ({"a.gguf": tiny_gguf(), "b.gguf": tiny_gguf(fill=1)}, {}, InvalidRequest, "split models"),
        ({"clip.gguf": tiny_gguf(architecture="clip")}, {}, InvalidRequest, "none of the GGUF files"),
        ({"a.gguf": b"GGUF but not really a GGUF file"}, {}, StorageError, "not a usable GGUF file"),
        ({"a.gguf": tiny_gguf()}, {"quantize": "q4_0"}, Unsupported, "no backend converts GGUF files"),
        ({}, {}, InvalidRequest, "neither 'from' or 'files'"),
        ({"a.gguf": tiny_gguf()}, NO_ADAPTER, InvalidRequest, "not an adapter for GGUF models"),
    ],
)
async def test_a_model_that_cannot_be_created_is_refused_and_leaves_nothing(
    ollama: OllamaFolder,
    store: OllamaStore,
    tmp_path: Path,
    files: dict[str, bytes],
    fields: dict[str, Any],
    kind: type[OllmlxError],
    words: str,
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=words):
        await create(store, "m", files={name: tmp_path / name for name in files}, **fields)
    assert list(await store.list()) == []
    assert not (ollama.root / "blobs").exists()


# -- pull -----------------------------------------------------------------------------------------------------------


async def pull(store: OllamaStore, name: str, files: dict[str, bytes]) -> list[str]:
    steps = store.pull(ModelName.parse(name), FileSource(files, "gguf"), None)
    return list(dict.fromkeys([step.status async for step in steps]))


async def test_a_gguf_file_of_any_source_becomes_a_model(store: OllamaStore) -> None:
    steps = await pull(store, "org/m", {"weights.gguf": tiny_gguf()})
    assert steps == ["pulling manifest", "fetched", "verifying sha256 digest", "writing manifest", "success"]
    assert (await found(store, "org/m")).format == "gguf"


async def test_a_newer_model_replaces_the_layers_of_the_old_one(ollama: OllamaFolder, store: OllamaStore) -> None:
    await pull(store, "m", {"weights.gguf": tiny_gguf(fill=1)})
    steps = await pull(store, "m", {"weights.gguf": tiny_gguf(fill=2)})
    assert steps[-2:] == ["removing unused layers", "success"]
    assert len(ollama.blobs()) == 2


async def test_blobs_that_a_source_did_not_verify_are_hashed_before_they_are_installed(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    manifest, blobs = image({"model": b"right"})
    right = digest(b"right").replace(":", "-")
    files = {
        "manifest.json": manifest,
        **{each.replace(":", "-"): data for each, data in blobs.items()},
        right: b"wrong",
    }
    with pytest.raises(StorageError, match="does not have the digest of its name"):
        await pull(store, "m", files)
    assert right not in ollama.blobs()
    assert not (ollama.root / "manifests").exists()
