"""Models for Ollama's own MLX engine: a layer for each tensor. MLX reads them through a folder of links."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.servers.ollama_folder import OllamaFolder
from tests.unit.plugins.ollama_store.conftest import found, listed

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import StorageError
from ollmlx.types import CreateRequest, ModelDefaults
from ollmlx_ollama_store.store import OllamaStore

SIZES = {"U32": 4, "F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1}
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "vocab_size": 64}
JSON = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}"}
PACKED = "model.layers.0.mlp.up_proj.weight"


def blob(**tensors: tuple[str, tuple[int, ...]]) -> bytes:
    """Return a safetensors file. A double underscore in a name stands for a dot."""
    header: dict[str, Any] = {}
    at = 0
    for name, (kind, shape) in tensors.items():
        size = math.prod(shape) * SIZES[kind]
        header[name.replace("__", ".")] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(at)


def packed(words: int, scale: str = "BF16", **more: tuple[str, tuple[int, ...]]) -> bytes:
    """Return the layer of one matrix with `words` words of weights for each scale."""
    parts = {PACKED: ("U32", (8, words * 2)), f"{PACKED}.scale": (scale, (8, 2)), **more}
    return blob(**parts)


NORM = {"model.norm.weight": blob(model__norm__weight=("BF16", (8,)))}


def add(ollama: OllamaFolder, tensors: dict[str, bytes], files: dict[str, bytes] = JSON, **more: Any) -> Path:
    about: dict[str, Any] = {"model_format": "safetensors", "model_family": "", "model_families": None}
    return ollama.add("m", {"tensor": tensors, "json": files, **more}, **about, model_type="", file_type="")


async def test_such_a_model_is_an_mlx_folder_of_links_and_its_own_folder_stays_as_it_is(
    ollama: OllamaFolder, tmp_path: Path
) -> None:
    tokenizer = json.dumps({"chat_template": "{{ messages }} {{ tools }}", "auto_map": {"AutoTokenizer": "x.py"}})
    files = {**JSON, "tokenizer_config.json": tokenizer.encode(), "generation_config.json": b'{"temperature":0.7}'}
    params = b'{"top_k":7}'
    add(ollama, {PACKED: packed(8), **NORM}, files, params=params, license=b"MIT")
    before = ollama.contents()
    store = OllamaStore(ollama.root, tmp_path / "links")
    model = await found(store, "m")
    assert (model.format, model.details.format, model.details.family) == ("mlx", "safetensors", "llama")
    assert (model.details.quantization_level, model.details.parameter_size) == ("int4", "1K")
    assert model.capabilities == ("completion", "tools")
    assert model.defaults.options.stated == {"temperature": 0.7, "top_k": 7}
    assert model.defaults.license == ("MIT",)
    assert model.path.parent == tmp_path / "links"
    weights = sorted(model.path.glob("model-*.safetensors"))
    assert [link.resolve().parent for link in weights] == [ollama.root / "blobs"] * 2
    config = json.loads((model.path / "config.json").read_bytes())
    assert config == {**CONFIG, "quantization": {"group_size": 64, "bits": 4, "mode": "affine"}}
    assert "auto_map" not in json.loads((model.path / "tokenizer_config.json").read_bytes())
    assert ollama.contents() == before


@pytest.mark.parametrize(
    ("words", "scale", "level"),
    [
        (2, "U8", "nvfp4"), (4, "U8", "mxfp4"), (8, "U8", "mxfp8"),
        (8, "BF16", "int4"), (16, "F32", "int8"), (4, "BF16", "int4"),
    ],
)  # fmt: skip
async def test_the_quantisation_is_read_from_the_layers(
    ollama: OllamaFolder, store: OllamaStore, words: int, scale: str, level: str
) -> None:
    add(ollama, {PACKED: packed(words, scale), **NORM})
    assert (await found(store, "m")).details.quantization_level == level


@pytest.mark.parametrize(
    ("tensors", "files", "missing"),
    [
        ({}, JSON, "it has no weights"),
        (NORM, {"tokenizer.json": b"{}"}, "it has no config.json"),
        (NORM, {"config.json": JSON["config.json"], "draft/tokenizer.json": b"{}"}, "it has no tokenizer.json"),
        ({"x": packed(6)}, JSON, "MLX has no such quantisation as model.layers.0.mlp.up_proj has"),
        ({"x": packed(8, "F8_E4M3")}, JSON, "MLX has no such quantisation"),
        ({"x": packed(2, "U8", **{f"{PACKED}.global_scale": ("F32", ())})}, JSON, "mlx-lm has no second scale"),
    ],
)
async def test_a_layout_that_mlx_cannot_read_is_listed_with_what_is_missing(
    ollama: OllamaFolder,
    store: OllamaStore,
    tensors: dict[str, bytes],
    files: dict[str, bytes],
    missing: str,
) -> None:
    add(ollama, tensors, files)
    model = await found(store, "m")
    assert model.format == "ollama-safetensors"
    assert missing in model.info["ollmlx.layers"]


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        (NORM, b"[]", "config.json is not a JSON object"),
        (NORM, b"[" * 100_000, "config.json is not valid JSON"),
        (NORM, b"{}", "names no model_type"),
        ({"x": b"not safetensors"}, JSON["config.json"], "is damaged"),
    ],
)
async def test_damaged_layers_are_the_models_own_error(
    ollama: OllamaFolder, store: OllamaStore, tensors: dict[str, bytes], config: bytes, words: str
) -> None:
    add(ollama, tensors, {**JSON, "config.json": config})
    assert await listed(store) == []
    with pytest.raises(StorageError, match=words):
        await found(store, "m")


@pytest.mark.parametrize("name", ["../../evil.json", "/tmp/evil.json", "a/b.json", ".hidden.json", "evil.py", ""])
async def test_no_name_of_a_layer_leads_out_of_the_folder(ollama: OllamaFolder, tmp_path: Path, name: str) -> None:
    add(ollama, NORM, {**JSON, name: b'{"evil":1}'})
    model = await found(OllamaStore(ollama.root, tmp_path / "links"), "m")
    assert {file.name for file in model.path.iterdir()} == {
        "config.json", "tokenizer.json", "model-00001-of-00001.safetensors",
    }  # fmt: skip
    assert not list(tmp_path.rglob("*evil*"))


async def test_a_layer_that_is_a_link_out_of_the_models_folder_is_refused(
    ollama: OllamaFolder, store: OllamaStore, tmp_path: Path
) -> None:
    add(ollama, NORM)
    for path in (ollama.root / "blobs").iterdir():
        if path.read_bytes() == NORM["model.norm.weight"]:
            secret = tmp_path / "secret"
            secret.write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(secret)
    with pytest.raises(StorageError, match="leads out of"):
        await found(store, "m")


async def test_a_draft_model_beside_it_is_left_out(ollama: OllamaFolder, store: OllamaStore) -> None:
    draft = {"draft.model.norm.weight": blob(draft__model__norm__weight=("BF16", (8,)))}
    add(ollama, {**NORM, **draft}, {**JSON, "draft/config.json": b"{}"})
    assert len(list((await found(store, "m")).path.glob("model-*"))) == 1


async def test_the_folder_is_made_again_when_it_is_gone_and_goes_with_the_model(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    add(ollama, {PACKED: packed(8), **NORM})
    first = await found(store, "m")
    for file in first.path.iterdir():
        file.unlink()
    first.path.rmdir()
    again = await found(store, "m")
    assert again.path == first.path
    assert (again.path / "tokenizer.json").exists()
    copy = ModelName.parse("copied")
    await store.copy(again, copy)
    assert (await found(store, "copied")).path == first.path
    await store.delete(ModelName.parse("m"))
    assert first.path.is_dir()
    await store.delete(copy)
    assert not first.path.exists()
    assert ollama.blobs() == set()


async def test_a_model_made_from_it_keeps_its_layers_and_their_names(ollama: OllamaFolder, store: OllamaStore) -> None:
    path = add(ollama, {PACKED: packed(8), **NORM})
    base = await found(store, "m")
    request = CreateRequest(name=ModelName.parse("mine"), base=base, defaults=ModelDefaults(system="Be brief."))
    assert [step.status async for step in store.create(request, None)][-1] == "success"
    made = await found(store, "mine")
    assert (made.path, made.defaults.system) == (base.path, "Be brief.")
    written = json.loads((path.parents[1] / "mine/latest").read_bytes())["layers"]
    assert written[:4] == json.loads(path.read_bytes())["layers"]


async def test_a_go_template_is_used_where_the_files_have_none(ollama: OllamaFolder, store: OllamaStore) -> None:
    add(ollama, NORM, template=b"{{ .Prompt }}{{ .Tools }}")
    model = await found(store, "m")
    assert model.defaults.template == "{{ .Prompt }}{{ .Tools }}"
    assert "tools" in model.capabilities


async def test_a_model_whose_prompts_only_ollamas_program_can_make_is_refused_until_it_has_a_template(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    layers: dict[str, Any] = {"tensor": NORM, "json": JSON}
    ollama.add("m", layers, model_format="safetensors", renderer="qwen3.5")
    model = await found(store, "m")
    assert model.format == "ollama-safetensors"
    assert model.info["ollmlx.layers"] == "it has no chat template; Ollama's program has its format (qwen3.5)"
    request = CreateRequest(name=ModelName.parse("mine"), base=model, defaults=ModelDefaults(template="{{ .Prompt }}"))
    assert [step.status async for step in store.create(request, None)][-1] == "success"
    assert (await found(store, "mine")).format == "mlx"


async def test_a_models_folder_that_cannot_be_written_is_read(ollama: OllamaFolder, tmp_path: Path) -> None:
    add(ollama, NORM)
    folders = [path for path in (ollama.root, *ollama.root.rglob("*")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    try:
        assert (await found(OllamaStore(ollama.root, tmp_path / "links"), "m")).format == "mlx"
    except OllmlxError as error:  # pragma: no cover - says why the test failed, before the folder is writable again
        pytest.fail(error.message)
    finally:
        for path in folders:
            path.chmod(0o755)
