"""Embeddings from a decoder model: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import mlx.core as mx

from ollmlx.errors import ContextExceeded, InvalidRequest, Unsupported
from ollmlx.types import EmbedRequest, EmbedResult

Vector = tuple[float, ...]


def embed(
    model: Any, inputs: Sequence[list[int]], request: EmbedRequest, context: int
) -> Generator[None, None, EmbedResult]:
    """One vector per list of token ids, of `context` tokens at most. Yields between inputs; runs on the compute thread.

    Vectors have length 1 when `request.normalize`; `dimensions` cuts them first. Raises ContextExceeded for a long
    input that may not be cut, InvalidRequest for more dimensions than there are.
    """
    body = _body(model)
    vectors: list[Vector] = []
    count = 0
    for tokens in inputs:
        if len(tokens) > context:
            if not request.truncate:
                raise ContextExceeded("the input length exceeds the context length")
            tokens = tokens[:context]
        count += len(tokens)
        vectors.append(_vector(body, tokens, request))
        yield
    return EmbedResult(embeddings=tuple(vectors), prompt_tokens=count)


def _body(model: Any) -> Any:
    """The part of the model below its output head."""
    for owner in (model, getattr(model, "language_model", None)):
        body = getattr(owner, "model", None) or getattr(owner, "backbone", None)
        if body is not None:
            return body
    raise Unsupported("this model does not support embeddings")


def _vector(body: Any, tokens: list[int], request: EmbedRequest) -> Vector:
    hidden = body(mx.array([tokens]))
    mean = hidden[0].astype(mx.float32).mean(axis=0)
    size = mean.shape[0]
    if request.dimensions is not None:
        if request.dimensions > size:
            raise InvalidRequest(f"dimensions must be at most {size} for this model")
        mean = mean[: request.dimensions]
    if request.normalize:
        mean = mean / mx.maximum(mx.linalg.norm(mean), 1e-12)
    values = mean.tolist()
    assert isinstance(values, list)
    return tuple(float(value) for value in values)
