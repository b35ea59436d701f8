"""The network of encoders: one module whose shape says which family it is.

BERT (Devlin et al., 2018), RoBERTa and XLM-R (Liu et al., 2019), MPNet (Song et al., 2020), NomicBERT (Nussbaum et al.,
2024) and ModernBERT (Warner et al., 2024) differ in positions, in the place of the norms, and in the feed-forward
block. Hugging Face's transformers is the reference whose numbers they agree with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import mlx.core as mx
import numpy as np
from mlx.nn.layers.activations import gelu, gelu_approx, relu, silu
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from ollmlx_mlx.engine.device import device_name
from ollmlx_mlx.engine.encoder import cpu

Activation = Literal["gelu", "gelu_approx", "relu", "silu"]

ACTIVATIONS: Final[dict[str, Any]] = {"gelu": gelu, "gelu_approx": gelu_approx, "relu": relu, "silu": silu}
_ON_CPU: Final[dict[str, Any]] = {"gelu": cpu.gelu, "gelu_approx": cpu.gelu_approx, "relu": relu, "silu": cpu.silu}
BUCKETS: Final = 32
"""Buckets of relative distances, as MPNet has them."""
QUERIES: Final = 512
"""Tokens of a long text whose attention is computed at once. The daemon's estimate charges it."""
FARTHEST: Final = 128
"""The distance from which all are in the last bucket."""


@dataclass(frozen=True)
class EncoderShape:
    """The sizes and the family's choices.

    `positions`: learned positions, 0 without; `first_position`: the position of the first token; `types`: token types;
    `buckets`: MPNet's relative positions; `norms_first`: before a block instead of after it; `gated`: the feed-forward
    block multiplies two halves; `ropes`: the base of the rotation in each layer, 0 without; `rotated`: features of a
    head that are rotated; `windows`: distance that each layer looks, 0 for all.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    activation: Activation
    epsilon: float
    positions: int = 0
    first_position: int = 0
    types: int = 0
    buckets: bool = False
    norms_first: bool = False
    first_norm: bool = True
    gated: bool = False
    ropes: tuple[float, ...] = ()
    rotated: int = 0
    windows: tuple[int, ...] = ()
    norm_bias: bool = True
    attention_bias: bool = True
    output_bias: bool = True
    inner_bias: bool = True


class EncoderLayer(Module):
    def __init__(self, shape: EncoderShape, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        width = shape.width
        self.qkv = Linear(width, 3 * width, bias=shape.attention_bias)
        self.out = Linear(width, width, bias=shape.output_bias)
        self.up = Linear(width, shape.inner * (2 if shape.gated else 1), bias=shape.inner_bias)
        self.down = Linear(shape.inner, width, bias=shape.inner_bias)
        if not shape.norms_first or shape.first_norm or index:
            self.norm1 = LayerNorm(width, eps=shape.epsilon, bias=shape.norm_bias)
        self.norm2 = LayerNorm(width, eps=shape.epsilon, bias=shape.norm_bias)
        self._shape = shape
        self._rope = shape.ropes[index] if shape.ropes else 0.0
        self.window = shape.windows[index] if shape.windows else 0
        self._activation = (_ON_CPU if device_name() == "cpu" else ACTIVATIONS)[shape.activation]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        if self._shape.norms_first:
            x = x + self._attention(self.norm1(x) if "norm1" in self else x, mask)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attention(x, mask))
        after: mx.array = self.norm2(x + self._feed_forward(x))
        return after

    def _attention(self, x: mx.array, mask: mx.array | None) -> mx.array:
        count, length, width = x.shape
        heads = self._shape.heads
        q, k, v = self.qkv(x).reshape(count, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        if self._rope:
            dims = self._shape.rotated
            q, k = (mx.fast.rope(a, dims, traditional=False, base=self._rope, scale=1.0, offset=0) for a in (q, k))
        mixed = attention(q, k, v, mask)
        out: mx.array = self.out(mixed.transpose(0, 2, 1, 3).reshape(count, length, width))
        return out

    def _feed_forward(self, x: mx.array) -> mx.array:
        act, inner = self._activation, self.up(x)
        if self._shape.gated:
            active, other = mx.split(inner, 2, axis=-1)
            out: mx.array = self.down(act(active) * other)
        else:
            out = self.down(act(inner))
        return out


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """Return the attention of [texts, heads, tokens, features]. A long text's is computed in pieces: scores are many.

    `mask` [texts or 1, 1 or heads, 1 or tokens, tokens]: which tokens count, or what is added to the scores.
    """
    length, scale = q.shape[2], q.shape[3] ** -0.5
    compute: Any = cpu.attention if device_name() == "cpu" else mx.fast.scaled_dot_product_attention
    if length <= 2 * QUERIES:
        whole: mx.array = compute(q, k, v, scale=scale, mask=mask)
        return whole
    pieces = []
    for at in range(0, length, QUERIES):
        part = mask if mask is None or mask.shape[2] == 1 else mask[:, :, at : at + QUERIES]
        pieces.append(compute(q[:, :, at : at + QUERIES], k, v, scale=scale, mask=part))
    return mx.concatenate(pieces, axis=2)


class Encoder(Module):
    """Returns the hidden states of texts. Texts of one batch are padded on the right."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = Embedding(shape.vocabulary, shape.width)
        if shape.positions:
            self.positions = Embedding(shape.positions, shape.width)
        if shape.types:
            self.types = Embedding(shape.types, shape.width)
        if shape.buckets:
            self.buckets = Embedding(BUCKETS, shape.heads)
        self.norm = LayerNorm(shape.width, eps=shape.epsilon, bias=shape.norm_bias)
        self.layers = [EncoderLayer(shape, index) for index in range(shape.layers)]
        if shape.norms_first:
            self.final_norm = LayerNorm(shape.width, eps=shape.epsilon, bias=shape.norm_bias)
        self._shape = shape

    def __call__(self, ids: mx.array, lengths: mx.array | None = None, types: mx.array | None = None) -> mx.array:
        """Return [texts, tokens, features] of [texts, tokens]. `lengths` [texts]: None when none is padded."""
        shape, width = self._shape, ids.shape[1]
        x = self.tokens(ids)
        if shape.positions:
            x = x + self.positions.weight[shape.first_position : shape.first_position + width]
        if shape.types:
            x = x + (self.types.weight[0] if types is None or shape.types < 2 else self.types(types))
        x = self.norm(x)
        whole = self._mask(width, lengths, 0)
        near = {window: self._mask(width, lengths, window) for window in set(shape.windows) if window}
        for layer in self.layers:
            x = layer(x, near.get(layer.window, whole))
        out: mx.array = self.final_norm(x) if shape.norms_first else x
        return out

    def _mask(self, width: int, lengths: mx.array | None, window: int) -> mx.array | None:
        """Return which tokens each token sees, and for MPNet how much each distance counts; None for all alike."""
        mask = None if lengths is None else (mx.arange(width)[None] < lengths[:, None])[:, None, None, :]
        if window and window < width:
            at = mx.arange(width)
            near = mx.abs(at[:, None] - at[None]) <= window
            mask = near[None, None] if mask is None else mx.logical_and(mask, near[None, None])
        if self._shape.buckets:
            bias = self.buckets(mx.array(distance_buckets(width))).transpose(2, 0, 1)[None]
            mask = bias if mask is None else mx.where(mask, bias, mx.array(-math.inf, bias.dtype))
        return mask


@lru_cache(maxsize=8)
def distance_buckets(width: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the bucket of each pair of tokens [width, width]: half of them for each direction, exact when near."""
    distance = np.arange(width)[None] - np.arange(width)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    size = np.abs(distance)
    far = exact + np.log(np.maximum(size, 1) / exact) / math.log(FARTHEST / exact) * (half - exact)
    bucket = np.where(size < exact, size, np.minimum(far.astype(np.int64), half - 1))
    found: np.ndarray[Any, np.dtype[np.int32]] = (bucket + np.where(distance > 0, half, 0)).astype(np.int32)
    return found
