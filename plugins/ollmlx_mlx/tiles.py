"""Float32 products with many outputs, in tiles that stay in the processor's cache. Linux CPU only; in the child.

A BLAS copies the weights into its own order before it multiplies, and for a tall weight matrix that copy goes through
memory. A few hundred rows at a time stay in the cache: 1.2 to 1.7 times faster with MKL for 3 to 512 rows of input
(docs/benchmarks.md). One or two rows are read straight through anyway, and gain nothing.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

MANY: Final = 3072
"""Outputs from which a layer is worth tiling."""

_TILE: Final = 512
_ROWS: Final = 3


def product(inputs: mx.array, weight: mx.array) -> mx.array:
    """`inputs` [..., features] times `weight` [outputs, features] transposed: [..., outputs]."""
    outputs, features = weight.shape
    if inputs.size < _ROWS * features:
        return inputs @ weight.T
    tiles = [inputs @ weight[at : at + _TILE].T for at in range(0, outputs, _TILE)]
    return mx.concatenate(tiles, axis=-1)


class TiledLinear(Linear):
    """A linear layer [outputs, features] that is computed in tiles."""

    def __call__(self, x: mx.array) -> mx.array:
        result = product(x, self.weight)
        return result + self.bias if "bias" in self else result


class TiledEmbedding(Embedding):
    """An embedding that is the output head as well, computed in tiles then."""

    def as_linear(self, x: mx.array) -> mx.array:
        return product(x, self.weight)


def tile(model: Module) -> None:
    """Change a model's large float32 layers in place. Layers of other kinds are left as they are."""
    tiled: dict[type, type] = {Linear: TiledLinear, Embedding: TiledEmbedding}
    for _, layer in model.named_modules():
        kind = tiled.get(type(layer))
        if kind is not None and layer.weight.dtype == mx.float32 and layer.weight.shape[0] >= MANY:
            layer.__class__ = kind
