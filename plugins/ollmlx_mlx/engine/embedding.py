"""Embeddings from a decoder model, pooled from its last hidden states.

Texts are computed in parts that take about as long as a slice of prefill, long texts piece by piece over a cache.
Between two parts the scheduler serves other requests, and a cancelled request is noticed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from inspect import signature
from typing import Any, Final

import mlx.core as mx

from ollmlx.errors import Unsupported
from ollmlx.types import EmbedRequest, EmbedResult
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.kv_cache import make_layers
from ollmlx_mlx.engine.pooling import EncodedText, Pooler, Vector, to_vectors

_REST: Final = 1.25
"""A text up to this many times a part is computed at once: a small rest would cost nearly as much as a whole part."""


def embed(
    model: Any,
    pooler: Pooler,
    texts: Sequence[EncodedText],
    request: EmbedRequest,
    clock: ChunkClock,
    slices: Callable[[], float],
) -> Generator[None, None, EmbedResult]:
    """Return one vector for each text. Yields between parts.

    Runs on the compute thread. A part is as many tokens as `clock` gives for `slices()`. Raises InvalidRequest for more
    dimensions than there are.
    """
    body = _body(model)
    in_pieces = "cache" in signature(body.__call__).parameters
    vectors: dict[int, Vector] = {}
    waiting = deque(sorted(range(len(texts)), key=lambda index: len(texts[index])))
    while waiting:
        size = clock.size(slices())
        group = _group(waiting, texts, size)
        chosen = [texts[index] for index in group]
        if in_pieces and len(chosen[0]) > _REST * size:
            parts = yield from _in_pieces(model, body, pooler, chosen[0], clock, slices)
        else:
            parts = _at_once(body, pooler, chosen, clock)
        found = pooler.finish(parts, [len(text) - text.skipped for text in chosen])
        vectors.update(zip(group, to_vectors(found, request), strict=True))
        yield
    ordered = tuple(vectors[index] for index in range(len(texts)))
    return EmbedResult(embeddings=ordered, prompt_tokens=sum(map(len, texts)))


def _group(waiting: deque[int], texts: Sequence[EncodedText], size: int) -> list[int]:
    """Take the next text, and those after it of a similar length, within `size` padded tokens."""
    group = [waiting.popleft()]
    shortest = len(texts[group[0]])
    while waiting:
        length = len(texts[waiting[0]])
        if (len(group) + 1) * length > size or length > 1.5 * shortest + 8:
            break
        group.append(waiting.popleft())
    return group


def _body(model: Any) -> Any:
    """Return the part of the model below its output head."""
    for owner in (model, getattr(model, "language_model", None)):
        body = getattr(owner, "model", None) or getattr(owner, "backbone", None)
        if body is not None:
            return body
    raise Unsupported("this model does not support embeddings")


def _at_once(body: Any, pooler: Pooler, texts: Sequence[EncodedText], clock: ChunkClock) -> tuple[mx.array, ...]:
    """Return what the hidden states of these texts contribute to their vectors."""
    # Padding is on the right: in a causal model no real token sees it.
    started = time.monotonic()
    lengths = [len(text) for text in texts]
    width = max(lengths)
    hidden = body(mx.array([text.tokens + [0] * (width - len(text)) for text in texts]))
    parts = pooler.gather(hidden, lengths, [text.skipped for text in texts])
    mx.eval(parts)
    clock.learn(width * len(texts), time.monotonic() - started)
    return parts


def _in_pieces(
    model: Any,
    body: Any,
    pooler: Pooler,
    text: EncodedText,
    clock: ChunkClock,
    slices: Callable[[], float],
) -> Generator[None, None, tuple[mx.array, ...]]:
    """Return the same for one text, piece by piece over a cache. Yields between its pieces."""
    cache = make_layers(model)
    parts: tuple[mx.array, ...] | None = None
    fed = 0
    while True:
        started = time.monotonic()
        count = clock.size(slices())
        if len(text) - fed <= _REST * count:
            count = len(text) - fed
        hidden = body(mx.array([text.tokens[fed : fed + count]]), cache=cache)
        parts = pooler.join(parts, pooler.gather(hidden, [count], [max(0, min(count, text.skipped - fed))]))
        mx.eval(parts, [layer.state for layer in cache])
        clock.learn(count, time.monotonic() - started)
        fed += count
        if fed == len(text):
            return parts
        yield
