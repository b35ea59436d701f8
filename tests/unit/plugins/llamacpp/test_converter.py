"""GGUF files that are quantised, and adapters that become GGUF files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.plugins.mlx.conftest import tiny_gguf

from ollmlx import GgufHeader, GgufTensor, read_gguf_header
from ollmlx.protocol import ExitCode
from ollmlx_llamacpp.converter.__main__ import main
from ollmlx_llamacpp.converter.mixture import Mixture

RNG = np.random.default_rng(1)
WIDE = RNG.standard_normal((64, 256)).astype(np.float32)
WORDS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.chat_template": "{{ x }}"}


def model(folder: Path, kind: str = "F16", architecture: str = "llama", file_type: int = 1) -> Path:
    """A tiny model; one of its tensors has rows that K-quants can divide."""
    tiny_gguf(
        file := folder / "tiny.gguf",
        architecture,
        kind,
        {"blk.1.ffn_down.weight": WIDE},
        {**WORDS, "general.file_type": file_type},
    )
    return file


def convert(source: Path, into: Path, **options: str) -> int:
    into.mkdir(exist_ok=True)
    return main(["--source", str(source), "--into", str(into), "--options", json.dumps(options)])


def values(file: Path, name: str) -> NDArray[np.float32]:
    """A tensor of a GGUF file as numbers."""
    tensor = next(each for each in gguf.GGUFReader(file).tensors if each.name == name)
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


@pytest.mark.parametrize(
    ("name", "kind", "others", "error"),
    [
        ("q8_0", "Q8_0", "Q8_0", 0.01),
        ("Q4_K_M", "Q6_K", "Q5_0", 0.03),  # rows of 64 get the type that fits them
        ("q4_k_s", "Q4_K", "Q5_0", 0.1),
        ("q4_0", "Q4_0", "Q4_0", 0.12),
        ("f32", "F32", "F32", 0.001),
    ],
)
def test_a_model_is_quantised_by_the_names_of_ollama(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str, others: str, error: float
) -> None:
    source = model(tmp_path)
    assert convert(source, tmp_path / "out", quantize=name) == 0, capsys.readouterr().err
    made = tmp_path / "out" / "model.gguf"
    before, after = read_gguf_header(source), read_gguf_header(made)
    kinds = {tensor.name: tensor.kind for tensor in after.tensors}
    assert kinds["blk.1.ffn_down.weight"] == kind
    assert kinds["blk.0.ffn_up.weight"] == others
    assert kinds["blk.0.ffn_norm.weight"] == "F32"
    changed = {"general.file_type", "general.quantization_version"}
    assert {key: value for key, value in before.metadata.items() if key not in changed} == {
        key: value for key, value in after.metadata.items() if key not in changed
    }
    assert after.metadata["general.file_type"] != 1
    assert np.abs(values(made, "blk.1.ffn_down.weight") - WIDE).mean() < error
    if name == "q8_0":
        expected = gguf.quants.quantize(WIDE.astype(np.float16).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        read = next(each for each in gguf.GGUFReader(made).tensors if each.name == "blk.1.ffn_down.weight")
        assert np.array_equal(read.data, expected)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["completed"] == last["total"]
    assert last["status"].startswith("quantizing F16 model to ")


@pytest.mark.parametrize(
    ("source", "quantize", "words"),
    [
        ({}, "iq2_xxs", "unsupported quantization type iq2_xxs - supported types are Q8_0"),
        ({"kind": "Q8_0", "file_type": 7}, "q4_0", "only supported for F16, BF16 and F32 models, and this one is Q8_0"),
        ({"file_type": 4000}, "q4_0", "this one is of an unknown type"),
    ],
)
def test_what_cannot_be_quantised_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: dict[str, Any], quantize: str, words: str
) -> None:
    assert convert(model(tmp_path, **source), tmp_path / "out", quantize=quantize) == ExitCode.BAD_MODEL
    assert words in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_and_a_missing_llama_cpp_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("ollmlx.storekit.files.SPARE_SPACE", 1 << 62)
        assert convert(source, tmp_path / "out", quantize="q8_0") == 1
    assert "free" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ollmlx_llamacpp.converter.quantize", None)
    assert convert(source, tmp_path / "out", quantize="q8_0") == 1
    assert "pip install 'ollmlx[llamacpp]'" in capsys.readouterr().err


LAYERS = 16


@pytest.mark.parametrize(
    ("mixture", "metadata", "expected"),
    [
        (
            "Q4_K_M",
            {},
            {"blk.0.attn_v": "Q6_K", "blk.2.attn_v": "Q4_K", "blk.4.ffn_down": "Q6_K", "blk.3.attn_q": "Q4_K"},
        ),
        (
            "Q4_K_M",
            {},
            {"blk.15.ffn_down": "Q6_K", "output": "Q6_K", "token_embd": "Q4_K", "blk.0.ffn_gate_inp": "F16"},
        ),
        ("Q4_K_S", {}, {"blk.3.attn_v": "Q5_K", "blk.4.attn_v": "Q4_K", "blk.1.ffn_down": "Q5_K", "output": "Q6_K"}),
        ("Q5_K_M", {}, {"blk.0.attn_v": "Q6_K", "blk.2.attn_v": "Q5_K"}),
        ("Q4_K_M", {"expert_count": 8}, {"blk.2.attn_v": "Q8_0", "blk.2.attn_k": "Q8_0", "blk.2.attn_output": "Q5_K"}),
        ("Q8_0", {}, {"blk.0.attn_v": "Q8_0", "output": "Q8_0", "token_embd": "Q8_0"}),
    ],
)
def test_tensors_get_the_types_that_llama_quantize_gives_them(
    mixture: str, metadata: dict[str, int], expected: dict[str, str]
) -> None:
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down", "ffn_gate_inp")
    names = ["token_embd", "output", *(f"blk.{layer}.{part}" for layer in range(LAYERS) for part in parts)]
    tensors = tuple(GgufTensor(f"{name}.weight", (256, 256), "F16", 0, 131072) for name in names)
    about = {"general.architecture": "llama", "llama.block_count": LAYERS}
    about |= {f"llama.{key}": value for key, value in metadata.items()}
    chosen = Mixture(mixture, GgufHeader(3, about, tensors, 0))
    kinds = {tensor.name.removesuffix(".weight"): chosen.kind(tensor) for tensor in tensors}
    assert {name: kinds[name] for name in expected} == expected


# -- adapters --------------------------------------------------------------------------------------------------------

RANK = 4
DOWN, UP = (RNG.standard_normal(shape).astype(np.float32) for shape in ((RANK, 64), (64, RANK)))


def adapter(folder: Path, kind: str, layer: str = "model.layers.1.self_attn.q_proj", **config: Any) -> Path:
    """An adapter of one layer, as PEFT or mlx-lm writes it."""
    import mlx.core as mx

    folder.mkdir()
    down, up = mx.array(DOWN), mx.array(UP)
    if kind == "peft":
        tensors = {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
        file, about = "adapter_model.safetensors", {"peft_type": "LORA", "r": RANK, "lora_alpha": 8}
    else:
        tensors = {f"{layer}.lora_a": down.T.astype(mx.bfloat16), f"{layer}.lora_b": up.T.astype(mx.bfloat16)}
        file = "adapters.safetensors"
        about = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": 2.0}}
    mx.save_safetensors(str(folder / file), tensors)
    (folder / "adapter_config.json").write_text(json.dumps({**about, **config}))
    return folder


@pytest.mark.parametrize("kind", ["peft", "mlx"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_an_adapter_changes_the_gguf_model_as_it_changes_the_model_that_it_was_trained_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, architecture: str
) -> None:
    base = model(tmp_path, architecture=architecture)
    assert convert(adapter(tmp_path / "lora", kind), tmp_path / "out", base=str(base)) == 0, capsys.readouterr().err
    made = tmp_path / "out" / "model.gguf"
    about = read_gguf_header(made).metadata
    assert (about["general.type"], about["adapter.type"], about["general.architecture"]) == (
        "adapter",
        "lora",
        architecture,
    )
    name = "blk.1.attn_q.weight"
    down, up = values(made, f"{name}.lora_a"), values(made, f"{name}.lora_b")
    change = about["adapter.lora.alpha"] / RANK * up @ down
    if architecture == "llama":  # its file has the two halves of each head in turns
        change = change.reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    assert np.allclose(change, 2.0 * UP @ DOWN, atol=0.3 if kind == "mlx" else 1e-4)


@pytest.mark.parametrize(
    ("about", "architecture", "words"),
    [
        ({"kind": "peft", "use_dora": True}, "llama", "use_dora is not supported"),
        ({"kind": "peft", "peft_type": "LOHA"}, "llama", "type 'LOHA'"),
        ({"kind": "peft", "r": "4"}, "llama", "r of its adapter_config.json"),
        ({"kind": "mlx", "fine_tune_type": "dora"}, "llama", "type 'dora'"),
        ({"kind": "peft", "layer": "model.layers.7.self_attn.q_proj"}, "llama", "the model has no model.layers.7"),
        ({"kind": "peft", "layer": "model.layers.0.mlp.up_proj"}, "llama", "other sizes in the model"),
        ({"kind": "peft"}, "mamba", "the architecture mamba"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], about: dict[str, Any], architecture: str, words: str
) -> None:
    made = adapter(tmp_path / "lora", **about)
    assert convert(made, tmp_path / "out", base=str(model(tmp_path, architecture=architecture))) == ExitCode.BAD_MODEL
    assert words in capsys.readouterr().err
