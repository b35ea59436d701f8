"""Embeddings from a decoder model: the mean of its last hidden states.

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

from ollmlx.errors import ContextExceeded, InvalidRequest, Unsupported
from ollmlx.types import EmbedRequest, EmbedResult
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.kv_cache import make_layers

Vector = tuple[float, ...]

_REST: Final = 1.25
"""A text up to this many times a part is computed at once: a small rest would cost nearly as much as a whole part."""


def embed(
    model: Any,
    inputs: Sequence[list[int]],
    request: EmbedRequest,
    context: int,
    clock: ChunkClock,
    slices: Callable[[], float],
) -> Generator[None, None, EmbedResult]:
    """Return one vector per list of token ids, of `context` tokens at most. Yields between parts.

    Runs on the compute thread. A part is as many tokens as `clock` gives for `slices()`. `dimensions` cuts the vectors,
    then `normalize` gives them the length 1. Raises ContextExceeded for a long input that may not be cut,
    InvalidRequest for an empty input or for more dimensions than there are.
    """
    body = _body(model)
    if not request.truncate and any(len(tokens) > context for tokens in inputs):
        raise ContextExceeded("the input length exceeds the context length")
    texts = [tokens[:context] for tokens in inputs]
    if not all(texts):
        raise InvalidRequest("an input is empty")
    in_pieces = "cache" in signature(body.__call__).parameters
    vectors: dict[int, Vector] = {}
    waiting = deque(sorted(range(len(texts)), key=lambda index: len(texts[index])))
    while waiting:
        size = clock.size(slices())
        group = _group(waiting, texts, size)
        if in_pieces and len(texts[group[0]]) > _REST * size:
            means = yield from _in_pieces(model, body, texts[group[0]], clock, slices)
        else:
            means = _at_once(body, [texts[index] for index in group], clock)
        vectors.update(zip(group, _vectors(means, request), strict=True))
        yield
    ordered = tuple(vectors[index] for index in range(len(texts)))
    return EmbedResult(embeddings=ordered, prompt_tokens=sum(len(tokens) for tokens in texts))


def _group(waiting: deque[int], texts: Sequence[list[int]], size: int) -> list[int]:
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


def _at_once(body: Any, texts: Sequence[list[int]], clock: ChunkClock) -> mx.array:
    """Return the mean of each text's hidden states [texts, features]."""
    # Padding is on the right: in a causal model no real token sees it.
    started = time.monotonic()
    width = max(len(tokens) for tokens in texts)
    lengths = mx.array([[len(tokens)] for tokens in texts])
    hidden = body(mx.array([tokens + [0] * (width - len(tokens)) for tokens in texts])).astype(mx.float32)
    counts = (mx.arange(width)[None] < lengths)[..., None]
    means = mx.where(counts, hidden, 0.0).sum(axis=1) / lengths
    mx.eval(means)
    clock.learn(width * len(texts), time.monotonic() - started)
    return means


def _in_pieces(
    model: Any, body: Any, text: list[int], clock: ChunkClock, slices: Callable[[], float]
) -> Generator[None, None, mx.array]:
    """Return the mean of one text's hidden states [1, features]. Yields between its pieces."""
    cache = make_layers(model)
    total = mx.array(0.0)
    fed = 0
    while True:
        started = time.monotonic()
        count = clock.size(slices())
        if len(text) - fed <= _REST * count:
            count = len(text) - fed
        hidden = body(mx.array([text[fed : fed + count]]), cache=cache).astype(mx.float32)
        total = total + hidden.sum(axis=1)
        mx.eval(total, [layer.state for layer in cache])
        clock.learn(count, time.monotonic() - started)
        fed += count
        if fed == len(text):
            mean: mx.array = total / len(text)
            return mean
        yield


def _vectors(means: mx.array, request: EmbedRequest) -> list[Vector]:
    size = means.shape[-1]
    if request.dimensions is not None:
        if request.dimensions > size:
            raise InvalidRequest(f"dimensions must be at most {size} for this model")
        means = means[:, : request.dimensions]
    if request.normalize:
        means = means / mx.maximum(mx.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    rows: Any = means.tolist()
    return [tuple(float(value) for value in row) for row in rows]
