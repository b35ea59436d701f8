"""Matrix products for Linux CPUs: in tiles that stay in the processor's cache, and in halves on two streams.

MLX computes a CPU stream on one thread, one operation after the other, and a BLAS with threads of its own speeds up
nothing but matrix products, and spins while it waits. Two halves of a layer on two streams use two cores for all that
a layer does. Handing over costs 0.1 to 0.2 ms, so only work of half a millisecond and more is divided.

A BLAS copies the weights into its own order before it multiplies, and for a tall weight matrix that copy goes through
memory. A few hundred rows at a time stay in the cache: 1.2 to 1.7 times faster with MKL for 3 to 512 rows of input.
One or two rows are read straight through anyway, and gain nothing.

MLX's CPU back end unpacks quantised weights anew for every row of input: the time grows with the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

WORTH_DIVIDING: Final = 18_000_000
"""`effort` of about half a millisecond on a core of 2024."""

_ROW: Final = 10
"""Reading a weight from memory takes as long as multiplying it with this many rows."""

_mine = threading.local()


def open_second() -> None:
    """Open a second stream for this thread. Arrays and streams belong to the thread that makes them."""
    _mine.second = mx.new_stream(mx.Device(mx.DeviceType.cpu))


def close_second() -> None:
    """Close the second stream of this thread."""
    _mine.second = None


def divides(work: int) -> bool:
    """Return whether this thread has a second stream, and this much work (as `effort` counts it) is worth dividing."""
    return work >= WORTH_DIVIDING and getattr(_mine, "second", None) is not None


def effort(rows: int, weights: int) -> int:
    """Return the time of a product of `rows` vectors with `weights` numbers, in units of one multiplication."""
    return weights * (rows + _ROW)


def side_by_side(here: Callable[[], mx.array], there: Callable[[], mx.array]) -> list[mx.array]:
    """Return two results, the second one computed on the second stream, which must be open (`divides`)."""
    with mx.stream(_mine.second):
        other = there()
    return [here(), other]


_TALL: Final = 3072
"""Outputs from which a product is computed in tiles."""

_TILE: Final = 512
_FEW_ROWS: Final = 3
_MANY_ROWS: Final = 64


def product(inputs: mx.array, weight: mx.array) -> mx.array:
    """Return `inputs` [..., features] times `weight` [outputs, features] transposed: [..., outputs]. On this stream."""
    outputs, features = weight.shape
    if outputs < _TALL or inputs.size < _FEW_ROWS * features:
        return inputs @ weight.T
    return mx.concatenate([inputs @ weight[at : at + _TILE].T for at in range(0, outputs, _TILE)], axis=-1)


def divided(inputs: mx.array, weight: mx.array) -> mx.array:
    """Compute as `product`, on two streams where that is faster."""
    outputs, features = weight.shape
    rows = inputs.size // features
    if not divides(effort(rows, weight.size)):
        return product(inputs, weight)
    if rows >= _MANY_ROWS and outputs < _TALL:
        # Divide by rows: the halves are simply one after the other.
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


_UNPACKING: Final = 30
"""Effort of unpacking and multiplying one weight for one row."""


def divided_quantized(layer: QuantizedLinear | QuantizedEmbedding, x: mx.array) -> mx.array:
    """Return x [..., features] times the layer's weights transposed: [..., outputs]. Two streams where faster."""
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
