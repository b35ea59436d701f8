"""Texts to embed as token ids, and their hidden states as vectors: prompts, pooling, dense layers, length.

The model's own files say how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.linear import Linear

from ollmlx.errors import InvalidRequest, StorageError, Unsupported
from ollmlx.runner.kit import TextFrame
from ollmlx.storekit import EmbeddingRecipe, require_json
from ollmlx.types import EmbedRequest

Encode = Callable[[Sequence[str], bool], list[list[int]]]
"""Returns the ids of texts, with or without the special tokens around them."""


@dataclass(frozen=True)
class EncodedText:
    """`skipped`: the first tokens, of the model's prompt, that are not pooled.

    `second`: the position at which the second text of a pair begins, 0 for a single text.
    """

    tokens: list[int]
    skipped: int = 0
    second: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


class EmbedTexts:
    """Encodes the texts of requests. Not for two threads at once."""

    def __init__(self, encode: Encode, recipe: EmbeddingRecipe) -> None:
        self._encode = encode
        self._recipe = recipe
        (framed,), (plain,) = encode(["a"], True), encode(["a"], False)
        self._frame = TextFrame.of(framed, plain)

    def encode(self, request: EmbedRequest, context: int) -> list[EncodedText]:
        """Return the ids of a request's texts, each cut to the context. Raises as `TextFrame.fit`."""
        prompt = self._recipe.prompt(request.input_type)
        texts = [prompt + text for text in request.inputs]
        if self._recipe.lower_case:
            texts = [text.lower() for text in texts]
        skipped = 0
        if prompt and not self._recipe.counts_prompt:
            skipped = self._frame.before + len(self._encode([prompt], False)[0])
        found = [self._frame.fit(tokens, request, context) for tokens in self._encode(texts, True)]
        return [EncodedText(tokens, min(skipped, len(tokens) - 1)) for tokens in found]


Vector = tuple[float, ...]

_ACTIVATIONS: Final[dict[str, Callable[[mx.array], mx.array]]] = {
    "Identity": lambda x: x,
    "Tanh": mx.tanh,
    "ReLU": lambda x: mx.maximum(x, 0.0),
}
_JOIN: Final[dict[str, Callable[[mx.array, mx.array], mx.array]]] = {
    "cls": lambda a, b: a,
    "last": lambda a, b: b,
    "max": mx.maximum,
    "mean": mx.add,
}


class DenseLayer:
    """A step after the pooling: a matrix, and a function."""

    def __init__(self, folder: Path, name: str) -> None:
        config = require_json(folder, f"{name}/config.json")
        kind = str(config.get("activation_function", "Identity")).rpartition(".")[2]
        if kind not in _ACTIVATIONS:
            raise Unsupported(f"{name}: the activation {kind[:40]!r} is not supported", code="MDL005")
        file = folder / name / "model.safetensors"
        if not file.is_file():
            raise StorageError(f"{name}/model.safetensors is missing", code="MDL003", hint="pull the model again")
        weights: Any = mx.load(str(file))
        self._activation = _ACTIVATIONS[kind]
        self._linear = Linear(1, 1, bias="linear.bias" in weights)
        self._linear.weight = weights["linear.weight"].astype(mx.float32)
        if "linear.bias" in weights:
            self._linear.bias = weights["linear.bias"].astype(mx.float32)
        mx.eval(self._linear.parameters())

    def __call__(self, x: mx.array) -> mx.array:
        return self._activation(self._linear(x))


class Pooler:
    """Makes vectors by a recipe. A text may come in pieces: `gather` each, `join` them, `finish`."""

    def __init__(self, recipe: EmbeddingRecipe, folder: Path | None = None) -> None:
        self._modes = recipe.pooling
        self._dense = [DenseLayer(folder, name) for name in recipe.dense if folder is not None]

    def gather(
        self, hidden: mx.array, lengths: Sequence[int], skipped: Sequence[int] | None = None
    ) -> tuple[mx.array, ...]:
        """Return for each pooling the part [texts, features] that hidden states [texts, tokens, features] contribute.

        `lengths`: the tokens of each text; what follows is padding. `skipped`: first tokens that do not count.
        """
        hidden = hidden.astype(mx.float32)
        width = hidden.shape[1]
        padded = min(lengths) < width
        ends = mx.array([[length] for length in lengths])
        counted = None
        if padded or (skipped is not None and any(skipped)):
            begins = mx.array([[begin] for begin in skipped or [0] * len(lengths)])
            at = mx.arange(width)[None]
            counted = mx.logical_and(at < ends, at >= begins)[..., None]
        parts = []
        for mode in self._modes:
            if mode == "cls":
                parts.append(hidden[:, 0])
            elif mode == "last":
                parts.append(mx.take_along_axis(hidden, (ends - 1)[..., None], axis=1)[:, 0])
            elif mode == "max":
                parts.append((hidden if counted is None else mx.where(counted, hidden, -mx.inf)).max(axis=1))
            else:
                parts.append((hidden if counted is None else mx.where(counted, hidden, 0.0)).sum(axis=1))
        return tuple(parts)

    def join(self, earlier: tuple[mx.array, ...] | None, later: tuple[mx.array, ...]) -> tuple[mx.array, ...]:
        """Return the parts of a longer piece of the same texts."""
        if earlier is None:
            return later
        return tuple(_JOIN[mode](a, b) for mode, a, b in zip(self._modes, earlier, later, strict=True))

    def finish(self, parts: tuple[mx.array, ...], counts: Sequence[int]) -> mx.array:
        """Return the vectors [texts, features]. `counts`: the tokens of each text that are pooled."""
        total = mx.array([[float(max(1, count))] for count in counts])
        pooled = [part / total if mode == "mean" else part for mode, part in zip(self._modes, parts, strict=True)]
        vectors = mx.concatenate(pooled, axis=-1)
        for dense in self._dense:
            vectors = dense(vectors)
        return vectors


def to_vectors(vectors: mx.array, request: EmbedRequest) -> list[Vector]:
    """Return the rows as numbers: cut to `dimensions`, then scaled to the length 1, as the request asks."""
    size = vectors.shape[-1]
    if request.dimensions is not None:
        if request.dimensions > size:
            raise InvalidRequest(f"dimensions must be at most {size} for this model")
        vectors = vectors[:, : request.dimensions]
    if request.normalize:
        vectors = vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    rows: Any = vectors.tolist()
    return [tuple(row) for row in rows]
