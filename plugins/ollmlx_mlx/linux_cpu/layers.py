"""A loaded model's layers, changed in place to forms that Linux CPUs compute faster. On the compute thread.

Attention is divided by queries: mlx-lm's models call `mx.fast.scaled_dot_product_attention` by that name, which is
replaced. Feed-forward blocks are divided by hidden features, so that a block is handed to the second stream once, not
three times; mlx-lm writes this block anew in every architecture, nearly always with the same functions. A block with
other functions is left alone.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_unflatten
from mlx_lm.models.activations import swiglu

from ollmlx_mlx.linux_cpu.products import (
    DividedEmbedding,
    DividedLinear,
    DividedQuantizedEmbedding,
    DividedQuantizedLinear,
    divides,
    effort,
    open_second,
    product,
    side_by_side,
)

_whole: Final = mx.fast.scaled_dot_product_attention
_SCORE: Final = 300
"""Effort of one score: its products, and the exponential function, which MLX's CPU back end computes slowly."""


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


def install() -> None:
    """Replace MLX's function in this process. Threads without a second stream compute as before."""
    mx.fast.scaled_dot_product_attention = attention


_PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")
_WORDS: Final = {*_PROJECTIONS, "swiglu"}
_WORTH: Final = 2**18
"""Weights in a projection below which halves cost more than they bring, however many rows there are."""


class DividedFeedForward(Module):
    """`down(swiglu(gate(x), up(x)))` for x [..., features], on two streams where that is faster."""

    def __init__(self, gate: mx.array, up: mx.array, down: mx.array) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        half = gate.shape[0] // 2
        self.gate, self.up = gate, up
        # Columns of a matrix would be copied for every product: store the halves as two arrays.
        self.down = [mx.contiguous(down[:, :half]), mx.contiguous(down[:, half:])]
        mx.eval(self.down)

    def __call__(self, x: mx.array) -> mx.array:
        half, (first, second) = self.gate.shape[0] // 2, self.down
        weights = self.gate.size + self.up.size + first.size + second.size

        def here() -> mx.array:
            return product(swiglu(product(x, self.gate[:half]), product(x, self.up[:half])), first)

        def there() -> mx.array:
            return product(swiglu(product(x, self.gate[half:]), product(x, self.up[half:])), second)

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
    gate, up, down = (layer.weight for layer in plain)
    return DividedFeedForward(gate, up, down) if gate.size >= _WORTH else None


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
