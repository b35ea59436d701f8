"""Quantised weights turned into float32 on a CPU, faster than by `mx.dequantize`, with the same numbers.

MLX's CPU back end unpacks into memory for a second copy of the whole. Large layers with 4 or 8 bits in groups with a
scale and an offset are unpacked here some rows at a time: what is in between stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_unflatten
from mlx_lm.utils import dequantize_model

_TILE: Final = 128 * 1024
"""Numbers that are unpacked at a time."""
_LARGE: Final = {4: 4 * 1024 * 1024, 8: 0}
"""By bits, the numbers from which this is faster: what MLX does for 4 bits is as fast while it stays in the cache."""


def unpack_model(model: Module) -> None:
    """Replace quantised layers by plain ones, lazily, on the present stream."""
    plain = [(name, _plain(layer)) for name, layer in model.named_modules()]
    model.update_modules(tree_unflatten([(name, layer) for name, layer in plain if layer is not None]))
    dequantize_model(model)  # other kinds of layers, numbers of bits and groups


def _plain(layer: Any) -> Module | None:
    if type(layer) not in (QuantizedLinear, QuantizedEmbedding) or layer.mode != "affine" or layer.bits not in _LARGE:
        return None
    if layer.weight.size * 32 // layer.bits < _LARGE[layer.bits]:
        return None
    weight = unpack(layer.weight, layer.scales, layer.biases, layer.bits)
    made: Any = Embedding(1, 1) if isinstance(layer, QuantizedEmbedding) else Linear(1, 1, bias=False)
    made.weight = weight
    if "bias" in layer:
        made.bias = layer.bias
    return made  # type: ignore[no-any-return]


def unpack(packed: mx.array, scales: mx.array, offsets: mx.array, bits: int) -> mx.array:
    """Return weights [outputs, features] in float32.

    `packed`: [outputs, features * bits / 32], the first number in the lowest of 4 or 8 bits; `scales` and `offsets`:
    [outputs, groups].
    """
    outputs, features = packed.shape[0], packed.shape[1] * 32 // bits
    rows = max(1, _TILE // features)
    whole = mx.zeros((outputs, features), mx.float32)
    for at in range(0, outputs, rows):
        tile = slice(at, at + rows)
        whole[tile] = _tile(packed[tile].view(mx.uint8), scales[tile], offsets[tile], bits).reshape(-1, features)
    return whole


def _tile(octets: mx.array, scales: mx.array, offsets: mx.array, bits: int) -> mx.array:
    numbers = mx.stack([octets & 15, octets >> 4], axis=-1) if bits == 4 else octets
    groups = numbers.astype(mx.float32).reshape(*scales.shape, -1)
    return groups * scales[..., None] + offsets[..., None]
