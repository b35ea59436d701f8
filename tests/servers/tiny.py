"""The files of a tiny MLX model, as `mlx_lm.convert` writes them: valid headers, a few kilobytes of weights."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ollmlx import ModelName
from ollmlx.types import PullProgress

TOOLS_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], fill: int = 7) -> bytes:
    """Make a safetensors file of tensors: name -> (type, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes([fill]) * at


def tiny_files(*, weights: int = 4096, fill: int = 7, template: str | None = TOOLS_TEMPLATE) -> dict[str, bytes]:
    """Make a quantised model of one layer. `weights`: bytes of a filler tensor that sets the size of the file."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 2048,
        "vocab_size": 32,
        "quantization": {"group_size": 32, "bits": 4},
    }
    tensors = {
        "model.layers.0.mlp.up_proj.weight": ("U32", (128, 8), 4096),
        "model.layers.0.mlp.up_proj.scales": ("F16", (128, 2), 512),
        "model.layers.0.mlp.up_proj.biases": ("F16", (128, 2), 512),
        "model.norm.weight": ("F16", (64,), 128),
        "filler": ("U8", (weights,), weights),
    }
    tokenizer: dict[str, Any] = {"model_max_length": 2048}
    if template is not None:
        tokenizer["chat_template"] = template
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b'{"model": {"vocab": {}}}',
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "model.safetensors": safetensors(tensors, fill),
    }


def write_model(folder: Path, files: Mapping[str, bytes] | None = None, /, **changes: bytes | None) -> Path:
    """Write a tiny model. `files` and `changes` replace its files (`config__json=b"{"`); None leaves one out."""
    named = {path.replace("__", "."): data for path, data in changes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in {**tiny_files(), **(files or {}), **named}.items():
        if data is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    return folder


class FileSource:
    """A source of files with these contents. It verifies nothing. `format` names their store, too."""

    name = "files"

    def __init__(self, files: Mapping[str, bytes], format: str) -> None:
        self.files = files
        self.store = self._format = format

    def provides(self, name: ModelName) -> str | None:
        return f"files:{name}"

    def format(self, name: ModelName) -> str:
        return self._format

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        for count, (path, data) in enumerate(self.files.items(), 1):
            (into / path).write_bytes(data)
            yield PullProgress(status="fetched", total=len(self.files), completed=count)


def damage(path: Path, kind: str, elsewhere: Path) -> None:
    """Replace a file or folder by something that must not be used. `elsewhere`: a folder outside the models folder."""
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
        return
    path.rename(elsewhere / "outside")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        targets = {"link outside": elsewhere / "outside", "link to nothing": path.with_name("nothing"), "loop": path}
        path.symlink_to(targets[kind])
