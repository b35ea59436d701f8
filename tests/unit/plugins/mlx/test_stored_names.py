"""Weights by the names that Ollama gives them: the same model as by mlx-lm's names."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.containers import Sequential
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx_lm.utils import quantize_model, save_config, save_model
from tests.random_models import ARCHITECTURES, write_weights
from tests.servers.ollama_folder import OllamaFolder
from tests.servers.ollama_tensors import tensor_layers

from ollmlx import ModelName
from ollmlx_mlx.engine import unpack
from ollmlx_mlx.engine.load import read_stored
from ollmlx_mlx.engine.stored_names import allow_open_files, mlx_names
from ollmlx_mlx.engine.unpack import unpack_model
from ollmlx_mlx.folder import weight_sizes
from ollmlx_ollama_store.store import OllamaStore

pytestmark = pytest.mark.mlx

TOKENS = mx.array([[3, 1, 4, 1, 5, 9]])


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize(
    ("group", "bits", "mode"),
    [(0, 0, ""), (32, 4, "affine"), (64, 8, "affine"), (32, 8, "affine"), (32, 4, "mxfp4"), (32, 8, "mxfp8"),
     (16, 4, "nvfp4")],
)  # fmt: skip
async def test_a_model_in_ollamas_layers_computes_what_its_mlx_folder_computes(
    tmp_path: Path, kind: str, group: int, bits: int, mode: str
) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "mlx"
    write_weights(plain, ARCHITECTURES[kind], seed=3)
    model, config = read_stored(plain)
    if mode:  # the head of all is kept finer, as Ollama does
        finer = {"group_size": 32, "bits": 8, "mode": "mxfp8"} if mode in ("mxfp4", "nvfp4") else True
        model, config = quantize_model(
            model, config, group, bits, mode=mode, quant_predicate=lambda path, _: finer if "embed" in path else True
        )
    save_model(folder, model)
    save_config(config, config_path=folder / "config.json")
    (folder / "tokenizer.json").write_text("{}")
    ollama = OllamaFolder(tmp_path / "models")
    ollama.add("m", tensor_layers(folder), model_format="safetensors")
    found = await OllamaStore(ollama.root).resolve(ModelName.parse("m"))
    assert found is not None
    first, settings = read_stored(folder)
    second, _ = read_stored(found.path)
    assert mx.array_equal(first(TOKENS), second(TOKENS)).item()
    assert weight_sizes(found.path, settings) == weight_sizes(folder, settings)


@pytest.mark.parametrize(
    ("block", "inner"),
    [("model.layers.0.mlp", "switch_mlp"), ("model.layers.0", "experts.switch_glu")],
)
def test_experts_in_one_tensor_become_those_of_mlx_lms_layer(block: str, inner: str) -> None:
    gate_up = mx.arange(2 * 4 * 8, dtype=mx.uint32).reshape(2, 4, 8)
    scales = mx.arange(2 * 4 * 4, dtype=mx.uint32).astype(mx.uint8).reshape(2, 4, 4)
    down = mx.zeros((2, 8, 2), dtype=mx.uint32)
    named = mlx_names(
        {
            f"{block}.experts.gate_up_proj": gate_up,
            f"{block}.experts.gate_up_proj.scale": scales,
            f"{block}.experts.down_proj": down,
            f"{block}.experts.down_proj.scale": mx.zeros((2, 8, 1), dtype=mx.uint8),
            f"{block}.experts.0.up_proj.weight": mx.zeros((2, 2)),
        }
    )
    assert {*named} == {
        *(f"{block}.{inner}.{part}_proj.{last}" for part in ("gate", "up", "down") for last in ("weight", "scales")),
        f"{block}.experts.0.up_proj.weight",
    }
    assert mx.array_equal(named[f"{block}.{inner}.gate_proj.weight"], gate_up[:, :2])
    assert mx.array_equal(named[f"{block}.{inner}.up_proj.scales"], scales[:, 2:])


def test_files_of_more_layers_than_may_be_open_are_read(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "model-0.safetensors"), {"w": mx.zeros((1,))})
    for number in range(1, 300):
        shutil.copy(tmp_path / "model-0.safetensors", tmp_path / f"model-{number}.safetensors")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allow_open_files(tmp_path)
        assert len([mx.load(str(file)) for file in tmp_path.iterdir()]) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("outputs", "features"), [(1, 128), (7, 256), (300, 1024)])
def test_unpacked_weights_are_bit_for_bit_those_of_mlx(bits: int, group: int, outputs: int, features: int) -> None:
    packed, scales, offsets = mx.quantize(mx.random.normal((outputs, features)), group_size=group, bits=bits)
    expected = mx.dequantize(packed, scales, offsets, group_size=group, bits=bits)
    found = unpack.unpack(packed, scales, offsets, bits)
    assert (found.dtype, found.shape) == (mx.float32, (outputs, features))
    assert mx.array_equal(found, expected).item()


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (Linear(64, 8), {"group_size": 32, "bits": 4}),
        (Linear(64, 8, bias=False), {"group_size": 64, "bits": 8}),
        (Linear(64, 8), {"group_size": 32, "bits": 3}),
        (Linear(64, 8), {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
        (Embedding(8, 64), {"group_size": 32, "bits": 4}),
        (Embedding(8, 64), {"group_size": 32, "bits": 6}),
    ],
    ids=["4 bits and a bias", "8 bits", "3 bits", "mxfp4", "embedding", "embedding in 6 bits"],
)
def test_every_quantised_layer_becomes_a_plain_one_with_the_same_answers(
    layer: Module, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "_LARGE", {4: 0, 8: 0})
    quantised: Any = layer.to_quantized(**form)
    model = Sequential(quantised)
    plain = isinstance(layer, Linear)
    inputs = mx.random.normal((2, 64)) if plain else mx.array([0, 3, 7])
    before = quantised(inputs)
    unpack_model(model)
    assert type(model.layers[0]) is type(layer)
    assert ("bias" in model.layers[0]) is ("bias" in layer)
    assert mx.allclose(model.layers[0](inputs), before, rtol=1e-4, atol=1e-4).item()
