"""Float32 products: in tiles that stay in the processor's cache, and in halves on two streams.

A BLAS copies the weights into its own order before it multiplies, and for a tall weight matrix that copy goes through
memory. A few hundred rows at a time stay in the cache: 1.2 to 1.7 times faster with MKL for 3 to 512 rows of input.
One or two rows are read straight through anyway, and gain nothing.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from ollmlx_mlx.linux_cpu.streams import divides, effort, side_by_side

_TALL: Final = 3072
"""Outputs from which a product is computed in tiles."""

_TILE: Final = 512
_FEW_ROWS: Final = 3
_MANY_ROWS: Final = 64


def product(inputs: mx.array, weight: mx.array) -> mx.array:
    """`inputs` [..., features] times `weight` [outputs, features] transposed: [..., outputs]. On the present stream."""
    outputs, features = weight.shape
    if outputs < _TALL or inputs.size < _FEW_ROWS * features:
        return inputs @ weight.T
    return mx.concatenate([inputs @ weight[at : at + _TILE].T for at in range(0, outputs, _TILE)], axis=-1)


def divided(inputs: mx.array, weight: mx.array) -> mx.array:
    """As `product`, on two streams where that is faster."""
    outputs, features = weight.shape
    rows = inputs.size // features
    if not divides(effort(rows, weight.size)):
        return product(inputs, weight)
    if rows >= _MANY_ROWS and outputs < _TALL:
        # Halves of the rows need not be woven together again.
        flat, half = inputs.reshape(rows, features), rows // 2
        parts = side_by_side(lambda: product(flat[:half], weight), lambda: product(flat[half:], weight))
        return mx.concatenate(parts).reshape(*inputs.shape[:-1], outputs)
    half = outputs // 2
    parts = side_by_side(lambda: product(inputs, weight[:half]), lambda: product(inputs, weight[half:]))
    return mx.concatenate(parts, axis=-1)


class DividedLinear(Linear):
    """A linear layer [outputs, features] that is computed in tiles and halves."""

    def __call__(self, x: mx.array) -> mx.array:
        result = divided(x, self.weight)
        return result + self.bias if "bias" in self else result


class DividedEmbedding(Embedding):
    """An embedding that is the output head as well, computed in tiles and halves then."""

    def as_linear(self, x: mx.array) -> mx.array:
        return divided(x, self.weight)
