"""A loaded model's layers, changed in place to what suits the CPU. On the compute thread."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_unflatten

from ollmlx_mlx.linux_cpu.attention import install
from ollmlx_mlx.linux_cpu.feedforward import divided_feed_forward
from ollmlx_mlx.linux_cpu.products import DividedEmbedding, DividedLinear
from ollmlx_mlx.linux_cpu.quantized import DividedQuantizedEmbedding, DividedQuantizedLinear
from ollmlx_mlx.linux_cpu.streams import open_second

_DIVIDED: Final[dict[type, type]] = {
    Linear: DividedLinear,
    Embedding: DividedEmbedding,
    QuantizedLinear: DividedQuantizedLinear,
    QuantizedEmbedding: DividedQuantizedEmbedding,
}


def suit(model: Module, *, streams: int) -> None:
    """Compute large float32 products in tiles and, with two `streams`, layers in halves side by side.

    Half-precision layers are left alone: `load` turns them into float32 before.
    """
    if streams > 1:
        open_second()
        install()
        _divide_blocks(model)
    for _, layer in model.named_modules():
        kind = _DIVIDED.get(type(layer))
        if kind is not None and layer.weight.dtype in (mx.float32, mx.uint32):
            layer.__class__ = kind


def _divide_blocks(model: Module) -> None:
    blocks = ((name, divided_feed_forward(block)) for name, block in model.named_modules())
    found = [(name, block) for name, block in blocks if block is not None]
    if found:
        model.update_modules(tree_unflatten(found))
