"""Feed-forward blocks in two halves: each stream computes half of the hidden features, and the sums are added.

Most of a model's multiplications happen here, and a block is handed over to the second stream once, not three times.
mlx-lm writes this block anew in every architecture, nearly always in the same words; a block that says anything else
is left alone.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx_lm.models.activations import swiglu

from ollmlx_mlx.linux_cpu.products import product
from ollmlx_mlx.linux_cpu.streams import divides, effort, side_by_side

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
        # Columns of a matrix would be copied for every product: the halves lie apart.
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
    """The same block in halves; None when it is another kind of block, too small, or not plain float32."""
    call: Any = type(block).__call__
    if {*getattr(getattr(call, "__code__", None), "co_names", ())} != _WORDS:
        return None
    layers = [block.get(name) for name in _PROJECTIONS]
    plain = [layer for layer in layers if type(layer) is Linear and "bias" not in layer]
    if len(plain) < len(layers) or any(layer.weight.dtype != mx.float32 for layer in plain):
        return None
    gate, up, down = (layer.weight for layer in plain)
    return DividedFeedForward(gate, up, down) if gate.size >= _WORTH else None
