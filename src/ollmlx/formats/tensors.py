"""The tensors of an installed model, for people: from the headers of its files, no weight is read."""

from __future__ import annotations

from typing import Any

from ollmlx.formats.gguf import read_gguf_header
from ollmlx.formats.safetensors import read_safetensors_header
from ollmlx.types import InstalledModel


def read_tensors(model: InstalledModel) -> list[dict[str, Any]]:
    """`name`, `type` and `shape` of each tensor, in the files' order; none for other formats. Raises StorageError."""
    if model.format == "gguf":
        found = read_gguf_header(model.path).tensors
        return [{"name": tensor.name, "type": tensor.kind, "shape": list(tensor.shape)} for tensor in found]
    files = sorted(model.path.glob("*.safetensors"))
    return [
        {"name": name, "type": tensor.dtype, "shape": list(tensor.shape)}
        for file in files
        for name, tensor in read_safetensors_header(file).items()
    ]
