"""Embeddings from a decoder model: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final

import mlx.core as mx

from ollmlx.errors import ContextExceeded, InvalidRequest, Unsupported
from ollmlx.types import EmbedRequest, EmbedResult

Vector = tuple[float, ...]

_GROUP_TOKENS: Final = 512


def embed(
    model: Any, inputs: Sequence[list[int]], request: EmbedRequest, context: int
) -> Generator[None, None, EmbedResult]:
    """One vector per list of token ids, of `context` tokens at most. Yields between groups; runs on the compute thread.

    Vectors have length 1 when `request.normalize`; `dimensions` cuts them first. Raises ContextExceeded for a long
    input that may not be cut, InvalidRequest for more dimensions than there are.
    """
    body = _body(model)
    if not request.truncate and any(len(tokens) > context for tokens in inputs):
        raise ContextExceeded("the input length exceeds the context length")
    texts = [tokens[:context] for tokens in inputs]
    if not all(texts):
        raise InvalidRequest("an input is empty")
    vectors: dict[int, Vector] = {}
    for group in _groups([len(tokens) for tokens in texts]):
        found = _vectors(body, [texts[index] for index in group], request)
        vectors.update(zip(group, found, strict=True))
        yield
    ordered = tuple(vectors[index] for index in range(len(texts)))
    return EmbedResult(embeddings=ordered, prompt_tokens=sum(len(tokens) for tokens in texts))


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of texts to compute together: alike in length, within a bound of padded tokens."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        fits = bool(groups) and (len(groups[-1]) + 1) * lengths[index] <= _GROUP_TOKENS
        if fits and lengths[index] <= 1.5 * lengths[groups[-1][0]] + 8:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _body(model: Any) -> Any:
    """The part of the model below its output head."""
    for owner in (model, getattr(model, "language_model", None)):
        body = getattr(owner, "model", None) or getattr(owner, "backbone", None)
        if body is not None:
            return body
    raise Unsupported("this model does not support embeddings")


def _vectors(body: Any, texts: Sequence[list[int]], request: EmbedRequest) -> list[Vector]:
    # Padding stands on the right: in a causal model nothing before it sees it.
    width = max(len(tokens) for tokens in texts)
    lengths = mx.array([[len(tokens)] for tokens in texts])
    hidden = body(mx.array([tokens + [0] * (width - len(tokens)) for tokens in texts])).astype(mx.float32)
    counts = (mx.arange(width)[None] < lengths)[..., None]
    means = mx.where(counts, hidden, 0.0).sum(axis=1) / lengths
    size = means.shape[-1]
    if request.dimensions is not None:
        if request.dimensions > size:
            raise InvalidRequest(f"dimensions must be at most {size} for this model")
        means = means[:, : request.dimensions]
    if request.normalize:
        means = means / mx.maximum(mx.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    rows: Any = means.tolist()
    return [tuple(float(value) for value in row) for row in rows]
