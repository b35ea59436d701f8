"""Texts to embed and documents to score, cut to the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.types import EmbedRequest, RerankRequest


@dataclass(frozen=True)
class TextFrame:
    """The number of special tokens that a tokenizer adds before and after a text."""

    before: int
    after: int

    @classmethod
    def of(cls, framed: Sequence[int], plain: Sequence[int]) -> TextFrame:
        """Find the frame from one text's ids with special tokens and without."""
        starts = range(len(framed) - len(plain) + 1)
        before = next((at for at in starts if list(framed[at : at + len(plain)]) == list(plain)), 0)
        return cls(before, max(0, len(framed) - len(plain) - before))

    def fit(self, tokens: list[int], request: EmbedRequest, context: int) -> list[int]:
        """Return the ids of a framed text, cut to `context` tokens, or to the request's `num_ctx`.

        Raises ContextExceeded for a text that is too long and may not be cut, InvalidRequest for an empty one and for
        a context without room for a token beside the special ones.
        """
        limit = min(context, request.options.num_ctx or context)
        if not tokens:
            raise InvalidRequest("an input is empty")
        if len(tokens) <= limit:
            return tokens
        if not request.truncate:
            error = ContextExceeded("the input length exceeds the context length")
            error.excess = (len(tokens), limit)
            raise error
        if limit <= self.before + self.after:
            raise InvalidRequest("input after truncation exceeds maximum context length")
        return tokens[: limit - self.after] + tokens[len(tokens) - self.after :]


def document_room(query: int, around: int, document: int, request: RerankRequest, context: int) -> int:
    """Return how many of a document's tokens are read, beside the query's and those `around` both.

    Raises ContextExceeded for a document that is too long and may not be cut, InvalidRequest for a query that leaves no
    room.
    """
    limit = min(context, request.options.num_ctx or context)
    if query + around + document <= limit:
        return document
    if not request.truncate:
        error = ContextExceeded("a document and the query exceed the context length")
        error.excess = (query + around + document, limit)
        raise error
    if query + around >= limit:
        raise InvalidRequest(f"the query has {query} tokens: it leaves no room for a document in {limit}")
    return limit - query - around
