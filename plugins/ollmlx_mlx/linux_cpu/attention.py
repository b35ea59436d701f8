"""Attention in halves of the queries, each on a stream of its own.

mlx-lm's models call `mx.fast.scaled_dot_product_attention`, each by that name: that is the one place to stand between.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx

from ollmlx_mlx.linux_cpu.streams import divides, side_by_side

_whole: Final = mx.fast.scaled_dot_product_attention
_SCORE: Final = 300
"""Effort of one score: its products, and the exponential function, which MLX's CPU back end computes slowly."""


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, **others: Any) -> mx.array:
    """As MLX's own: q [batch, heads, queries, features], k and v [batch, key heads, keys, features]."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    if queries < 2 or q.dtype != mx.float32 or not divides(batch * heads * queries * keys * _SCORE):
        return _whole(q, k, v, scale=scale, mask=mask, **others)
    if isinstance(mask, str):
        # The first half of the queries does not see the newest keys: its mask says so.
        mask = mx.arange(keys - queries, keys)[:, None] >= mx.arange(keys)
    half = queries // 2

    def part(begin: int, end: int) -> mx.array:
        rows = mask[..., begin:end, :] if mask is not None and mask.shape[-2] > 1 else mask
        return _whole(q[:, :, begin:end], k, v, scale=scale, mask=rows, **others)

    return mx.concatenate(side_by_side(lambda: part(0, half), lambda: part(half, queries)), axis=2)


def install() -> None:
    """Let the models of this process compute attention so; without a second stream nothing changes for a thread."""
    mx.fast.scaled_dot_product_attention = attention
