"""The layers of a model for Ollama's own MLX engine, as Ollama makes them of a folder of safetensors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

NAMES = {
    ("affine", 4): "int4",
    ("affine", 8): "int8",
    ("nvfp4", 4): "nvfp4",
    ("mxfp4", 4): "mxfp4",
    ("mxfp8", 8): "mxfp8",
}


def tensor_layers(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the layers of an MLX folder, by kind and name: each tensor with its scales, and each JSON file.

    Experts of a layer are one layer, as Ollama stacks them.
    """
    import mlx.core as mx  # the servers of the other tests do not wait for it

    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    table = config.pop("quantization", {})
    config.pop("quantization_config", None)
    weights: dict[str, Any] = {}
    for file in folder.glob("model*.safetensors"):
        weights |= mx.load(str(file))  # type: ignore[arg-type]  # a dict, for safetensors
    tensors: dict[str, bytes] = {}
    for name, array in weights.items():
        layer = name.removesuffix(".weight")
        if name != f"{layer}.weight":
            if not name.endswith((".scales", ".biases")):
                tensors[name] = _file({name: array}, {})
            continue
        stored = name.replace(".switch_mlp.", ".experts.")
        own = table.get(layer) if isinstance(table.get(layer), dict) else table
        arrays = {stored: array}
        for last, suffix in (("scales", "scale"), ("biases", "bias")):
            if f"{layer}.{last}" in weights:
                arrays[f"{stored}.{suffix}"] = weights[f"{layer}.{last}"]
        kind = NAMES.get((own.get("mode", "affine"), own.get("bits", 0)), "")
        about = {"quant_type": kind, "group_size": str(own.get("group_size"))} if len(arrays) > 1 else {}
        tensors[stored] = _file(arrays, about)
    files = {file.name: file.read_bytes() for file in folder.glob("*.json") if "index" not in file.name}
    return {"tensor": tensors, "json": {**files, "config.json": json.dumps(config).encode()}}


def _file(arrays: dict[str, Any], about: dict[str, str]) -> bytes:
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blob.safetensors"
        mx.save_safetensors(str(path), arrays, about)
        return path.read_bytes()
