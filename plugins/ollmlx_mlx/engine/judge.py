"""Qwen3-Reranker (Zhang et al., 2025): a language model that is asked whether a document answers a query.

The score is the probability of "yes" against "no" as the next word. The sentences are its authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

from ollmlx.errors import StorageError
from ollmlx.runner.kit import document_room
from ollmlx.storekit import EmbeddingRecipe
from ollmlx.types import RerankRequest
from ollmlx_mlx.engine.pooling import Encode, EncodedText, Pooler

BEFORE: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER: Final = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCT: Final = "Given a web search query, retrieve relevant passages that answer the query"


class Judge(Pooler):
    """Makes a score of the hidden state of the last token, and encodes pairs. `encode` as `EmbedTexts` has it."""

    def __init__(self, model: Any, encode: Encode) -> None:
        """Find the two words. Raises StorageError for a tokenizer that has them not as one token each."""
        super().__init__(EmbeddingRecipe(pooling=("last",), stated=True))
        (yes, no) = encode(["yes", "no"], False)
        if len(yes) != 1 or len(no) != 1:
            raise StorageError('the tokenizer takes "yes" and "no" apart: this is no Qwen3-Reranker', code="MDL003")
        self._model = model
        self._words = (yes[0], no[0])
        self._encode = encode
        self._before, self._after = encode([BEFORE, AFTER], False)

    def finish(self, parts: tuple[mx.array, ...], counts: Sequence[int]) -> mx.array:
        """Return the scores [texts, 1]."""
        head = getattr(self._model, "lm_head", None)
        hidden = parts[0].astype(self._model.model.norm.weight.dtype)
        logits = self._model.model.embed_tokens.as_linear(hidden) if head is None else head(hidden)
        yes, no = self._words
        return mx.sigmoid((logits[:, yes] - logits[:, no]).astype(mx.float32))[:, None]

    def encode(self, request: RerankRequest, context: int) -> tuple[list[EncodedText], list[int]]:
        """Return the ids of the question for each document, and which were cut. Raises as `document_room`."""
        question = f"<Instruct>: {INSTRUCT}\n<Query>: {request.query}\n<Document>:"
        texts = [f"{question} {document}" for document in request.documents]
        (alone,), whole = self._encode([question], False), self._encode(texts, False)
        around = len(self._before) + len(self._after)
        pairs: list[EncodedText] = []
        cut: list[int] = []
        for index, ids in enumerate(whole):
            document = max(0, len(ids) - len(alone))
            keep = document_room(len(ids) - document, around, document, request, context)
            cut += [index] if keep < document else []
            pairs.append(EncodedText([*self._before, *ids[: len(ids) - document + keep], *self._after]))
        return pairs, cut
