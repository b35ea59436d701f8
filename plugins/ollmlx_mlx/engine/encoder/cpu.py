"""Activations and attention of encoders on a CPU, from sums and products alone.

MLX's CPU back end vectorises these, and computes `erf`, `exp` and `tanh` number by number: those took two fifths of the
time of a BERT. Here they are polynomials whose errors are those of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

_ROOT: Final = 16
_ERF: Final = (1.0, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
"""Abramowitz and Stegun, 7.1.28: `erf(x) = 1 - 1 / p(x) ** 16` for x >= 0, with an error of at most 3e-7."""
_GELU: Final = [2 ** (1 / _ROOT) * factor / 2 ** (power / 2) for power, factor in enumerate(_ERF)]
"""The same for `x / sqrt(2)`, with the half of `gelu` in it."""
_EXP: Final = [1 / (math.factorial(power) * _ROOT**power) for power in range(7)]
"""The series of `exp(x / 16)`."""
_NEVER: Final = -1e30
"""The score of what a token does not see. Finite, because a padding token may see nothing."""


def _power(x: mx.array, factors: Sequence[float]) -> mx.array:
    """Return the polynomial of `x` with these factors, to the power of 16."""
    found = x * factors[-1] + factors[-2]
    for factor in factors[-3::-1]:
        found = found * x + factor
    for _ in range(4):
        found = found * found
    return found


def gelu(x: mx.array) -> mx.array:
    size = mx.abs(x)
    return mx.maximum(x, 0.0) - size / _power(size, _GELU)


def sigmoid(x: mx.array) -> mx.array:
    high = 1.0 / (1.0 + 1.0 / _power(mx.abs(x), _EXP))
    return mx.where(x < 0, 1.0 - high, high)


def silu(x: mx.array) -> mx.array:
    return x * sigmoid(x)


def gelu_approx(x: mx.array) -> mx.array:
    return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None) -> mx.array:
    """Compute as `mx.fast.scaled_dot_product_attention`, for a mask of either kind."""
    scores: Any = (q * scale) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, _NEVER) if mask.dtype == mx.bool_ else scores + mask
    shares = 1.0 / _power(scores.max(axis=-1, keepdims=True) - scores, _EXP)
    mixed: mx.array = (shares @ v) / shares.sum(axis=-1, keepdims=True)
    return mixed
