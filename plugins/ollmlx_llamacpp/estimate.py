"""The memory that a GGUF model needs, computed from its header alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ollmlx import GgufHeader
from ollmlx.types import MemoryEstimate

MIB: Final = 1024 * 1024
PROCESS_BYTES: Final = 160 * MIB
"""The interpreter with llama.cpp's library and an empty context, measured on a CPU."""
BATCH_TOKENS: Final = 512
"""Prompt tokens computed at once, at most. Intermediate results grow with them."""
AUTOMATIC_SLOTS: Final = 4
"""Sequences at once when the settings do not say how many..."""
CHEAP_CACHE_BYTES: Final = 1024 * MIB
"""...as long as their caches take no more than this, or than the weights."""
BYTES_PER_VALUE: Final = {"f16": 2.0, "auto": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes that one cached key or value takes."""


@dataclass(frozen=True)
class GgufShape:
    """The sizes of a model that the estimate needs. `cached`: keys and values of one token, over all layers."""

    weights: int
    cached: int
    embedding: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, header: GgufHeader) -> GgufShape:
        """Read the sizes from a header; missing ones count as small."""
        embedding = _number(header.own("embedding_length"))
        heads = max(1, _largest(header.own("attention.head_count")))
        key = _number(header.own("attention.key_length")) or embedding // heads
        value = _number(header.own("attention.value_length")) or embedding // heads
        table = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
        return cls(
            weights=header.size,
            cached=_kv_heads(header, heads) * (key + value),
            embedding=embedding,
            inner=_largest(header.own("feed_forward_length")),
            vocabulary=table.shape[0] if table is not None and len(table.shape) == 2 else 0,
        )

    def kv_cache(self, context: int, kv_cache_type: str) -> int:
        """Return the bytes of one sequence's cache."""
        return int(context * self.cached * BYTES_PER_VALUE.get(kv_cache_type, 2.0))


def slots(shape: GgufShape, context: int, parallel: int, kv_cache_type: str) -> int:
    """Return how many sequences run at once: `parallel`, or as many as stay affordable when it is 0.

    llama.cpp reserves every sequence's cache in full length.
    """
    if parallel > 0:
        return parallel
    room = max(CHEAP_CACHE_BYTES, shape.weights)
    return max(1, min(AUTOMATIC_SLOTS, room // max(1, shape.kv_cache(context, kv_cache_type))))


def estimate(shape: GgufShape, context: int, parallel: int, kv_cache_type: str) -> MemoryEstimate:
    """Return the bytes for a context length in tokens and a number of sequences (0: automatic)."""
    width = slots(shape, context, parallel, kv_cache_type)
    results = BATCH_TOKENS * (shape.vocabulary + 6 * shape.embedding + 2 * shape.inner) * 4
    return MemoryEstimate(
        weights=shape.weights,
        kv_cache=width * shape.kv_cache(context, kv_cache_type),
        overhead=PROCESS_BYTES + results,
        kv_per_token=shape.kv_cache(1, kv_cache_type),
    )


def _kv_heads(header: GgufHeader, heads: int) -> int:
    """Return the key-value heads of all layers together; some architectures state one number a layer."""
    stated = header.own("attention.head_count_kv", heads)
    if isinstance(stated, list):
        return sum(_number(each) for each in stated)
    return _number(stated) * _number(header.own("block_count"))


def _largest(value: Any) -> int:
    return max((_number(each) for each in value), default=0) if isinstance(value, list) else _number(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40 else 0
