"""Models of the MLX backend's tests: the real one imported, tiny random ones of every architecture."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.random_models import ARCHITECTURES, random_model


def run_importer(source: Path, into: Path, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run the importer in a process of its own, after the statements of `prelude`."""
    code = f"{prelude}\nimport sys\nfrom ollmlx_mlx.importer.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-P", "-c", code, "--source", str(source), "--into", str(into)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, imported into an MLX folder by the importer program."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    done = run_importer(smollm2_gguf, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tiny_vocabulary() -> dict[str, Any]:
    """Tokenizer metadata of a small byte-level vocabulary (llama.cpp's kind `smollm`)."""
    fixture = json.loads((Path(__file__).parent / "data/llamacpp_ids.json").read_text(encoding="utf-8"))
    metadata: dict[str, Any] = fixture["kinds"]["smollm"]["metadata"]
    return metadata


@pytest.fixture
def second_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second CPU stream for the thread of the test."""
    from ollmlx_mlx.linux_cpu import layers

    monkeypatch.setattr(layers, "_mine", threading.local())
    layers.open_second()


@pytest.fixture
def two_streams(second_stream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be divided between two CPU streams is, however small."""
    monkeypatch.setattr("ollmlx_mlx.linux_cpu.layers.WORTH_DIVIDING", 0)


WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path, tiny_vocabulary: dict[str, Any]) -> WriteGguf:
    """Write a tiny random model: `write_gguf("qwen3", kind="Q4_0", tensors={...}, metadata={...})`; None leaves out."""

    def write(
        architecture: str = "llama",
        *,
        kind: str = "F32",
        tensors: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Path:
        file = tmp_path / f"{architecture}-{kind}.gguf"
        tiny_gguf(file, architecture, kind, tensors or {}, {**tiny_vocabulary, **(metadata or {})})
        return file

    return write


def tiny_gguf(
    file: Path, architecture: str, kind: str, tensors: dict[str, Any], metadata: dict[str, Any], layers: int = 2
) -> None:
    """Two layers, width 64, 4 heads of 16, 2 key-value heads. The gguf library quantises the matrices as `kind`."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(file), architecture)
    prefix = architecture
    numbers = {"context_length": 128, "embedding_length": 64, "block_count": layers, "feed_forward_length": 96}
    numbers |= {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16}
    numbers |= {"attention.value_length": 16}
    values: dict[str, Any] = {f"{prefix}.{key}": value for key, value in numbers.items()}
    values[f"{prefix}.attention.layer_norm_rms_epsilon"] = 1e-5
    values[f"{prefix}.rope.freq_base"] = 10000.0
    for key, value in {**values, **metadata}.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            add: dict[type, Any] = {
                str: writer.add_string,
                int: writer.add_uint32,
                float: writer.add_float32,
                bool: writer.add_bool,
            }
            add[type(value)](key, value)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(metadata["tokenizer.ggml.tokens"]), 64),
        "output_norm.weight": (64,),
    }
    for layer in range(layers):
        own = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
        own |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
        norms = ["attn_norm", "ffn_norm"]
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in own.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (64,) for name in norms}
        if architecture == "qwen2":
            shapes |= {f"blk.{layer}.attn_{part}.bias": (own[f"attn_{part}"][0],) for part in ("q", "k", "v")}
        if architecture == "qwen3":
            shapes |= {f"blk.{layer}.attn_{part}_norm.weight": (16,) for part in ("q", "k")}
    for name, shape in shapes.items():
        data = tensors.get(name, rng.standard_normal(shape).astype(np.float32) * (0.1 if len(shape) > 1 else 1))
        if data is None:
            continue
        number = gguf.GGMLQuantizationType[kind] if data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(data, number), raw_dtype=number)
    for name in tensors.keys() - shapes.keys():
        writer.add_tensor(name, tensors[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def architecture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, Any]
) -> Path:
    """An MLX folder of a tiny model with random weights, once for each architecture; the folder has its name."""
    name: str = request.param
    return random_model(tmp_path_factory.mktemp("architectures") / name, ARCHITECTURES[name], tiny_vocabulary)
