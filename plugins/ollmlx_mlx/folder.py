"""A model's folder read without mlx: small JSON files, what in them would run code, and the sizes of weights.

The daemon, the importer and the engine use it. Every read is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ollmlx import SafetensorsTensor, read_safetensors_header, unpacked_elements
from ollmlx.errors import StorageError
from ollmlx.storekit import read_json

_CODE_KEYS: Final = {"config.json": ("model_file", "auto_map"), "tokenizer_config.json": ("auto_map",)}
WEIGHTS: Final = "model*.safetensors"
"""The files that mlx-lm loads. It does not read the index file."""
ENCODERS: Final = ("bert", "camembert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta")
"""Model types that the engine `encoder/` runs. Gemma 3 is one of them when it sees texts in both directions."""
AUTO_WIDTH: Final = 16
"""Sequences computed at once when `parallel` is automatic. The engine uses it, the daemon's estimate charges it."""
_WHOLE_NUMBERS: Final = ("U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64", "BOOL")


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of a model which reads whole texts at once and writes none."""
    kind = config.get("model_type")
    return kind in ENCODERS or (kind == "gemma3_text" and config.get("use_bidirectional_attention") is True)


def remote_code(folder: Path) -> str | None:
    """Return the file and key that ask for the model's own Python code (`config.json: model_file`), or None."""
    for name, keys in _CODE_KEYS.items():
        content = read_json(folder, name, keys=keys) or {}
        for key in keys:
            if content.get(key):
                return f"{name}: {key}"
    return None


@dataclass(frozen=True)
class WeightSizes:
    """Bytes of a model's weights in memory, in each form.

    `stored`: as on disk (Metal, CUDA); `float32`: everything unpacked; `packed`: quantised weights kept, all others in
    float32. `quantized`: whether there is anything to unpack.
    """

    stored: int
    float32: int
    packed: int
    quantized: bool


def weight_sizes(folder: Path, config: Mapping[str, Any]) -> WeightSizes:
    """Return the sizes of the weights in a folder, from headers. Raises StorageError for damaged or no files."""
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise StorageError(
            f"{folder.name} has no {WEIGHTS}", code="MDL003", hint="pull the model again, or convert its weights"
        )
    tensors: dict[str, SafetensorsTensor] = {}
    for file in files:
        tensors |= read_safetensors_header(file)
    return sizes_of(tensors, config)


def folder_state(folder: Path) -> tuple[object, ...]:
    """Return a value that changes when the files that decide about memory change. Cheap."""
    files = [folder / "config.json", *sorted(folder.glob(WEIGHTS))]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    return (folder, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def sizes_of(tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]) -> WeightSizes:
    stored = float32 = packed = 0
    quantized = False
    for name, tensor in tensors.items():
        stored += tensor.nbytes
        module, _, last = name.rpartition(".")
        size = tensor.nbytes if tensor.dtype in _WHOLE_NUMBERS else tensor.elements * 4
        if f"{module}.scales" not in tensors or f"{module}.weight" not in tensors:
            float32 += size
            packed += size
        elif last == "weight":
            quantized = True
            float32 += unpacked_elements(name, tensors, config) * 4
            packed += tensor.nbytes
        else:
            float32 += unpacked_elements(name, tensors, config) * 4
            packed += size
    return WeightSizes(stored, float32, packed, quantized)
