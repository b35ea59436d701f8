"""The files of a tiny MLX model, as `mlx_lm.convert` writes them: valid headers, a few kilobytes of weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

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
