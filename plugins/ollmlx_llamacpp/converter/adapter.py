"""Turns a LoRA adapter of safetensors, PEFT's or mlx-lm's, into the GGUF file that llama.cpp takes.

Both keep two small matrices for a layer. The layer gets the name of the base model's tensor, and for models in which
llama.cpp orders the rows of queries and keys differently, so are the rows of their second matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from ollmlx import GgufHeader, read_gguf_header, read_safetensors_header
from ollmlx.errors import StorageError
from ollmlx.storekit import require_json

Matrix = NDArray[np.float32]

PEFT: Final = "adapter_model.safetensors"
OWN: Final = "adapters.safetensors"
ARCHITECTURES: Final = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")
"""Models whose tensors have in a GGUF file the values that they have in safetensors, but for the order of rows."""
_REORDERED: Final = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
_UNSUPPORTED: Final = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
_ENDINGS: Final = (".lora_A.weight", ".lora_B.weight", ".lora_a", ".lora_b")


@dataclass
class LowRank:
    """The two matrices of one layer: `down` with a row for each rank, `up` with a column for each."""

    down: Matrix | None = None
    up: Matrix | None = None


def convert_adapter(folder: Path, base: Path, into: Path) -> None:
    """Write the adapter in `folder` for the model `base` as `model.gguf`. Raises StorageError (MDL007, MDL003)."""
    header = read_gguf_header(base, here=True)
    if header.architecture not in ARCHITECTURES:
        raise _unfit(f"adapters for the architecture {header.architecture[:40]} are not converted here")
    config = require_json(folder, "adapter_config.json")
    layers, scale = _peft(folder, config) if (folder / PEFT).is_file() else _own(folder, config)
    names = _names(header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    writer = gguf.GGUFWriter(into / "model.gguf", header.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    ranks = {len(layer.down) for layer in layers.values() if layer.down is not None}
    if len(ranks) != 1:
        raise _unfit("its layers have several ranks" if ranks else "it has no layers")
    writer.add_float32("adapter.lora.alpha", scale * ranks.pop())
    for name, layer in sorted(layers.items()):
        target = f"{names.get_name(name)}.weight"
        if target not in shapes or layer.down is None or layer.up is None:
            raise _unfit(f"the model has no {name[:120]}")
        if (layer.up.shape[0], layer.down.shape[1]) != shapes[target]:
            raise _unfit(f"{name} has other sizes in the model")
        writer.add_tensor(f"{target}.lora_a", layer.down)
        writer.add_tensor(f"{target}.lora_b", _ordered(layer.up, target, header))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(header: GgufHeader) -> gguf.TensorNameMap:
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(numbers[header.architecture], int(header.own("block_count", 0)))


def _ordered(up: Matrix, target: str, header: GgufHeader) -> Matrix:
    """Return the matrix with its rows as the model has them: Llama's queries and keys are interleaved there."""
    key = _REORDERED.get(target.removesuffix(".weight").rpartition(".")[2])
    if header.architecture != "llama" or key is None:
        return up
    heads = int(header.own(key, header.own("attention.head_count")))
    split = up.reshape(heads, 2, up.shape[0] // heads // 2, up.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(up.shape))


def _peft(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, LowRank], float]:
    """Return the layers and the scale of an adapter that PEFT wrote."""
    if config.get("peft_type") != "LORA":
        raise _unfit(f"adapters of the type {str(config.get('peft_type'))[:40]!r} are not supported")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise _unfit(f"{key} is not supported")
    rank, alpha = _positive(config, "r"), _positive(config, "lora_alpha")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return _layers(folder / PEFT, prefix="base_model.model."), scale


def _own(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, LowRank], float]:
    """Return the layers and the scale of an adapter that mlx-lm wrote; its matrices lie on their sides."""
    kind, parameters = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind != "lora" or not isinstance(parameters, dict):
        raise _unfit(f"adapters of the type {str(kind)[:40]!r} are not supported")
    layers = _layers(folder / OWN, prefix="")
    for layer in layers.values():
        layer.down, layer.up = (None if each is None else each.T.copy() for each in (layer.down, layer.up))
    return layers, _positive(parameters, "scale")


def _layers(file: Path, prefix: str) -> dict[str, LowRank]:
    found: dict[str, LowRank] = {}
    for name, matrix in _tensors(file).items():
        ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
        if ending is None:
            raise _unfit(f"{name[:120]} is no matrix of LoRA")
        layer = found.setdefault(name.removeprefix(prefix).removesuffix(ending), LowRank())
        if "lora_a" in ending.lower():
            layer.down = matrix
        else:
            layer.up = matrix
    return found


def _tensors(file: Path) -> dict[str, Matrix]:
    """Return the matrices of a safetensors file as numbers of 32 bits."""
    listed = read_safetensors_header(file)
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    places = json.loads(data[8:start])
    found = {}
    for name, tensor in listed.items():
        first, last = places[name]["data_offsets"]
        if len(tensor.shape) != 2 or tensor.dtype not in ("F32", "F16", "BF16"):
            raise _unfit(f"{name[:120]} is no matrix of numbers")
        raw = data[start + first : start + last]
        if tensor.dtype == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, "<f4" if tensor.dtype == "F32" else "<f2").astype(np.float32)
        found[name] = values.reshape(tensor.shape)
    return found


def _positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise _unfit(f"{key} of its adapter_config.json is no number above 0")
    return float(value)


def _unfit(why: str) -> StorageError:
    return StorageError(
        f"the adapter does not fit: {why}",
        code="MDL007",
        hint="convert_lora_to_gguf.py of llama.cpp makes a GGUF file, which ADAPTER takes, too",
    )
