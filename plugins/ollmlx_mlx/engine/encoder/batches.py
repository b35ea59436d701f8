"""Texts computed in batches of similar length, one padded pass each. On the compute thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np

from ollmlx.types import EmbedRequest, EmbedResult, RerankResult
from ollmlx_mlx.engine.encoder.load import LoadedEncoder
from ollmlx_mlx.engine.pooling import EncodedText, Vector, to_vectors

Streams = Sequence[mx.Stream | None]

TOKENS: Final = {"cpu": 512, "metal": 8192, "cuda": 16384}
"""Padded tokens of one pass. More bring no speed, and make a batch that others wait for longer. On a CPU the results of
a pass should fit its cache."""
_SPREAD: Final = 1.25
"""The longest text of a batch is at most this many times as long as the shortest, and a few tokens."""


def embed_batches(
    encoder: LoadedEncoder,
    texts: Sequence[EncodedText],
    request: EmbedRequest,
    device: str,
    streams: Streams,
) -> Generator[None, None, EmbedResult]:
    """Return one vector for each text. Yields between passes; a pass is a batch for each of the streams."""
    rows = yield from _computed(encoder, texts, device, streams, lambda found: to_vectors(found, request))
    return EmbedResult(embeddings=tuple(rows), prompt_tokens=sum(map(len, texts)))


def rank_batches(
    encoder: LoadedEncoder, pairs: Sequence[EncodedText], cut: Sequence[int], device: str, streams: Streams
) -> Generator[None, None, RerankResult]:
    """Return a score for each pair, of which those in `cut` were cut. Yields as `embed_batches`."""
    rows = yield from _computed(encoder, pairs, device, streams, lambda found: found.tolist())
    scores = tuple(float(row[0]) for row in rows)
    return RerankResult(scores=scores, prompt_tokens=sum(map(len, pairs)), truncated=tuple(cut))


def _computed(
    encoder: LoadedEncoder,
    texts: Sequence[EncodedText],
    device: str,
    streams: Streams,
    read: Callable[[mx.array], Any],
) -> Generator[None, None, list[Vector]]:
    """Return what `read` makes of the rows of each batch, in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches = divided(order, texts, TOKENS.get(device, 512), len(streams))
    vectors: dict[int, Vector] = {}
    for at in range(0, len(batches), len(streams)):
        passing = batches[at : at + len(streams)]
        found = [
            _compute(encoder, [texts[index] for index in batch], stream)
            for batch, stream in zip(passing, streams, strict=False)
        ]
        mx.eval(found)
        for batch, rows in zip(passing, found, strict=True):
            vectors.update(zip(batch, read(rows), strict=True))
        yield
    return [vectors[index] for index in range(len(texts))]


def divided(order: Sequence[int], texts: Sequence[EncodedText], tokens: int, streams: int) -> list[list[int]]:
    """Return batches of texts in this order, the shortest first: at most so many padded `tokens` in each.

    A batch for a request that would fit in one is made smaller, so that every stream has a part of it.
    """
    share = -(-sum(len(texts[index]) for index in order) // streams)
    limit = max(64, min(tokens, share))
    batches: list[list[int]] = []
    for index in order:
        length = len(texts[index])
        batch = batches[-1] if batches else None
        fits = batch is not None and (len(batch) + 1) * length <= limit
        if batch is not None and fits and length <= _SPREAD * len(texts[batch[0]]) + 4:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def _compute(encoder: LoadedEncoder, texts: Sequence[EncodedText], stream: mx.Stream | None) -> mx.array:
    """Return the vectors [texts, features], or the scores [texts, 1], not computed yet."""
    lengths = [len(text) for text in texts]
    ids: Any = np.zeros((len(texts), max(lengths)), dtype=np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text.tokens
    skipped = [text.skipped for text in texts]
    with mx.stream(stream or mx.default_stream(mx.default_device())):
        padded = min(lengths) < max(lengths)
        given = (mx.array(ids), mx.array(lengths) if padded else None)
        if encoder.head is not None:
            seconds = mx.array([[text.second or len(text)] for text in texts])
            types = (mx.arange(max(lengths))[None] >= seconds).astype(mx.int32)
            return encoder.head(encoder.network(*given, types), lengths)
        hidden = encoder.network(*given)
        parts = encoder.pooler.gather(hidden, lengths, skipped)
        counts = [length - skip for length, skip in zip(lengths, skipped, strict=True)]
        return encoder.pooler.finish(parts, counts)
