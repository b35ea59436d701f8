"""Products with quantised weights, in halves on two streams.

MLX's CPU back end unpacks the weights anew for every row of input: the time grows with the rows, and nothing is saved
by taking them together.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

from ollmlx_mlx.linux_cpu.streams import divides, side_by_side

_UNPACKING: Final = 30
"""Effort of one weight and one row."""


def divided_quantized(layer: QuantizedLinear | QuantizedEmbedding, x: mx.array) -> mx.array:
    """x [..., features] times the layer's weights transposed: [..., outputs], on two streams where that is faster."""
    outputs, features = layer.scales.shape[0], x.shape[-1]
    half = outputs // 2

    def part(begin: int, end: int) -> mx.array:
        biases = layer.get("biases")
        return mx.quantized_matmul(
            x,
            layer.weight[begin:end],
            scales=layer.scales[begin:end],
            biases=None if biases is None else biases[begin:end],
            transpose=True,
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
        )

    if not divides(x.size // features * outputs * features * _UNPACKING):
        return part(0, outputs)
    return mx.concatenate(side_by_side(lambda: part(0, half), lambda: part(half, outputs)), axis=-1)


class DividedQuantizedLinear(QuantizedLinear):
    """A quantised linear layer that is computed in halves."""

    def __call__(self, x: mx.array) -> Any:
        result = divided_quantized(self, x)
        return result + self.bias if "bias" in self else result


class DividedQuantizedEmbedding(QuantizedEmbedding):
    """A quantised embedding that is the output head as well, computed in halves then."""

    def as_linear(self, x: mx.array) -> Any:
        return divided_quantized(self, x)
