"""A loaded model's layers, changed in place to forms that Linux CPUs compute faster. On the compute thread.

MLX computes a CPU stream on one thread, one operation after the other, and a BLAS with threads of its own speeds up
nothing but matrix products, and spins while it waits. Two halves of a layer on two streams use two cores for all that
a layer does. Handing over costs 0.1 to 0.2 ms, so only work of half a millisecond and more is divided.

A BLAS copies the weights into its own order before it multiplies, and for a tall weight matrix that copy goes through
memory. A few hundred rows at a time stay in the cache: 1.2 to 1.7 times faster with MKL for 3 to 512 rows of input.
MKL reads the weights of one or two rows straight through anyway, and gains nothing. OpenBLAS with AVX-512 does so for
small products only: in tiles that are small enough, one to six rows take a third to nine tenths of the time.

MLX's CPU back end unpacks quantised weights anew for every row of input: the time grows with the rows. From a few rows
on a tile is unpacked once, to float32, and multiplied with all rows.

Attention is divided by queries: mlx-lm's models call `mx.fast.scaled_dot_product_attention` by that name, which is
replaced. Feed-forward blocks are divided by hidden features, so that a block is handed to the second stream once, not
three times; mlx-lm writes this block anew in every architecture, nearly always with the same functions. A block with
other functions is left alone.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_unflatten
from mlx_lm.models.activations import swiglu

WORTH_DIVIDING: Final = 18_000_000
"""`effort` of about half a millisecond on a core of 2024."""
_ROW: Final = 10
"""Reading a weight from memory takes as long as multiplying it with this many rows."""
_UNPACKING: Final = 30
"""Effort of unpacking and multiplying one weight for one row."""
_SCORE: Final = 300
"""Effort of one score: its products, and the exponential function, which MLX's CPU back end computes slowly."""
_WORTH: Final = 2**18
"""Weights in a projection below which halves cost more than they bring, however many rows there are."""
_TALL: Final = 3072
"""Outputs from which a product is computed in tiles."""
_TILE: Final = 512
_SMALL_ROWS: Final = 6
"""Rows up to which OpenBLAS is given small products."""
_SMALL_PRODUCT: Final = 1_000_000
_SMALL_RESULT: Final = 1200
"""The limits of what OpenBLAS takes for small: outputs times features times rows, and outputs times rows."""
_SMALLEST_TILE: Final = 16
_UNPACKED_ROWS: Final = 3
"""Rows from which quantised weights are unpacked once for all rows."""
_FEW_ROWS: Final = 3
_MANY_ROWS: Final = 64
_PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")
_WORDS: Final = {*_PROJECTIONS, "swiglu"}

_whole: Final = mx.fast.scaled_dot_product_attention
_mine = threading.local()


def open_second() -> None:
    """Open a second stream for this thread. Arrays and streams belong to the thread that makes them."""
    _mine.second = mx.new_stream(mx.Device(mx.DeviceType.cpu))


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


def product(inputs: mx.array, weight: mx.array) -> mx.array:
    """Return `inputs` [..., features] times `weight` [outputs, features] transposed: [..., outputs]. On this stream."""
    outputs, features = weight.shape
    tile = tile_of(inputs.size // features, outputs, features)
    if tile >= outputs:
        return inputs @ weight.T
    return mx.concatenate([inputs @ weight[at : at + tile].T for at in range(0, outputs, tile)], axis=-1)


def tile_of(rows: int, outputs: int, features: int) -> int:
    """Return how many outputs to compute at a time."""
    if 0 < rows <= _SMALL_ROWS and has_small_products():
        tile = min(_SMALL_RESULT // rows, _SMALL_PRODUCT // (rows * features)) // _SMALLEST_TILE * _SMALLEST_TILE
        return tile or outputs
    return _TILE if outputs >= _TALL and rows >= _FEW_ROWS else outputs


@cache
def has_small_products() -> bool:
    """Return whether the BLAS is an OpenBLAS on one thread that reads the weights of a small product where they are.

    With more threads it divides large products, and computes small ones on one.
    """
    blas = ctypes.CDLL(None)
    kernels, threads = (getattr(blas, f"openblas_get_{name}", None) for name in ("corename", "num_threads"))
    if kernels is None or threads is None or threads() > 1:
        return False
    kernels.restype = ctypes.c_char_p
    return kernels() in (b"SkylakeX", b"Cooperlake", b"SapphireRapids")


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


def divided_quantized(layer: QuantizedLinear | QuantizedEmbedding, x: mx.array) -> mx.array:
    """Return x [..., features] times the layer's weights transposed: [..., outputs]. Two streams where faster."""
    outputs, features = layer.scales.shape[0], x.shape[-1]
    half = outputs // 2

    rows = x.size // features
    biases = layer.get("biases")
    form: Any = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}

    def packed(begin: int, end: int) -> tuple[mx.array, mx.array, mx.array | None]:
        return layer.weight[begin:end], layer.scales[begin:end], None if biases is None else biases[begin:end]

    def part(begin: int, end: int) -> mx.array:
        if rows < _UNPACKED_ROWS:
            weight, scales, offsets = packed(begin, end)
            return mx.quantized_matmul(x, weight, scales=scales, biases=offsets, transpose=True, **form)
        tiles = [packed(at, min(end, at + _TILE)) for at in range(begin, end, _TILE)]
        unpacked = (mx.dequantize(*tile, **form).astype(x.dtype) for tile in tiles)
        return mx.concatenate([x @ tile.T for tile in unpacked], axis=-1)

    if not divides(min(rows, _UNPACKED_ROWS) * outputs * features * _UNPACKING):
        return part(0, outputs)
    return mx.concatenate(side_by_side(lambda: part(0, half), lambda: part(half, outputs)), axis=-1)


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, **others: Any) -> mx.array:
    """Compute as MLX does: q [batch, heads, queries, features], k and v [batch, key heads, keys, features]."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    if queries < 2 or q.dtype != mx.float32 or not divides(batch * heads * queries * keys * _SCORE):
        return _whole(q, k, v, scale=scale, mask=mask, **others)
    if isinstance(mask, str):
        # Each half of the queries needs its part of the causal mask.
        mask = mx.arange(keys - queries, keys)[:, None] >= mx.arange(keys)
    half = queries // 2

    def part(begin: int, end: int) -> mx.array:
        rows = mask[..., begin:end, :] if mask is not None and mask.shape[-2] > 1 else mask
        return _whole(q[:, :, begin:end], k, v, scale=scale, mask=rows, **others)

    return mx.concatenate(side_by_side(lambda: part(0, half), lambda: part(half, queries)), axis=2)


class DividedLinear(Linear):
    """A linear layer [outputs, features] that is computed in tiles and halves."""

    def __call__(self, x: mx.array) -> mx.array:
        result = divided(x, self.weight)
        return result + self.bias if "bias" in self else result


class DividedEmbedding(Embedding):
    """An embedding that is the output head as well, computed in tiles and halves then."""

    def as_linear(self, x: mx.array) -> mx.array:
        return divided(x, self.weight)


class DividedQuantizedLinear(QuantizedLinear):
    """A quantised linear layer that is computed in halves."""

    def __call__(self, x: mx.array) -> Any:
        result = divided_quantized(self, x)
        return result + self.bias if "bias" in self else result


class DividedQuantizedEmbedding(QuantizedEmbedding):
    """A quantised embedding that is the output head as well, computed in halves then."""

    def as_linear(self, x: mx.array) -> Any:
        return divided_quantized(self, x)


class DividedFeedForward(Module):
    """`down(swiglu(gate(x), up(x)))` for x [..., features], on two streams where that is faster. Made with both open.

    `inner`: the weights of the projection called `gate`.
    """

    def __init__(self, inner: mx.array, up: mx.array, down: mx.array) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        half = inner.shape[0] // 2
        self.inner, self.up = inner, up
        # Columns of a matrix would be copied for every product: store the halves as two arrays.
        self.down = side_by_side(lambda: mx.contiguous(down[:, :half]), lambda: mx.contiguous(down[:, half:]))
        mx.eval(self.down)

    def __call__(self, x: mx.array) -> mx.array:
        half, (first, second) = self.inner.shape[0] // 2, self.down
        weights = self.inner.size + self.up.size + first.size + second.size

        def here() -> mx.array:
            return product(swiglu(product(x, self.inner[:half]), product(x, self.up[:half])), first)

        def there() -> mx.array:
            return product(swiglu(product(x, self.inner[half:]), product(x, self.up[half:])), second)

        if divides(effort(x.size // x.shape[-1], weights)):
            one, other = side_by_side(here, there)
            return one + other
        return here() + there()


def divided_feed_forward(block: Module) -> Module | None:
    """Return the same block in halves; None when it is another kind of block, too small, or not plain float32."""
    call: Any = type(block).__call__
    if {*getattr(getattr(call, "__code__", None), "co_names", ())} != _WORDS:
        return None
    layers = [block.get(name) for name in _PROJECTIONS]
    plain = [layer for layer in layers if type(layer) is Linear and "bias" not in layer]
    if len(plain) < len(layers) or any(layer.weight.dtype != mx.float32 for layer in plain):
        return None
    inner, up, down = (layer.weight for layer in plain)
    return DividedFeedForward(inner, up, down) if inner.size >= _WORTH else None


_DIVIDED: Final[dict[type, type]] = {
    Linear: DividedLinear,
    Embedding: DividedEmbedding,
    QuantizedLinear: DividedQuantizedLinear,
    QuantizedEmbedding: DividedQuantizedEmbedding,
}


def divide_layers(model: Module, *, streams: int) -> None:
    """Compute large float32 products in tiles and, with two `streams`, layers in halves in parallel.

    Half-precision layers stay as they are: `load` turns them into float32 before.
    """
    if streams > 1:
        open_second()
        mx.fast.scaled_dot_product_attention = attention  # a thread without a second stream computes as before
        blocks = [(name, divided_feed_forward(block)) for name, block in model.named_modules()]
        model.update_modules(tree_unflatten([(name, block) for name, block in blocks if block is not None]))
    for _, layer in model.named_modules():
        kind = _DIVIDED.get(type(layer))
        if kind is not None and layer.weight.dtype in (mx.float32, mx.uint32):
            layer.__class__ = kind
