"""Texts to embed, as token ids, with the model's prompt before them. Imports nothing of mlx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ollmlx.runner.kit import TextFrame
from ollmlx.storekit import EmbeddingRecipe
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
