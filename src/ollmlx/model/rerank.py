"""Documents ordered by how well they answer a query: the request, its result, and the list that clients get."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ollmlx.model.request import Frozen, Options


def _text_of(value: Any) -> Any:
    """Return the text of a document, which is a string or an object with `text`."""
    return value.get("text", value) if isinstance(value, dict) else value


Document = Annotated[str, BeforeValidator(_text_of)]
"""A document's text; `{"text": …}` is accepted, too."""


class RerankRequest(Frozen):
    """A query, and the documents to score. `truncate` False refuses documents that do not fit beside the query."""

    request_id: str = ""
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[tuple[str, ...], Field(min_length=1)]
    truncate: bool = True
    options: Options = Options()


class RerankResult(Frozen):
    """A score from 0 to 1 for each document, the number of tokens that were read, and durations in nanoseconds.

    `truncated`: the indices of documents that were cut.
    """

    scores: tuple[float, ...]
    prompt_tokens: int
    truncated: tuple[int, ...] = ()
    queue_ns: int = 0
    load_ns: int = 0
    total_ns: int = 0

    def ranked(self, request: RerankRequest, top: int | None, *, with_documents: bool) -> list[dict[str, Any]]:
        """Return the best `top` documents (None: all), the best first; equal ones as they were given."""
        order = sorted(range(len(self.scores)), key=lambda index: -self.scores[index])[:top]
        return [
            {
                "index": index,
                "relevance_score": self.scores[index],
                **({"document": {"text": request.documents[index]}} if with_documents else {}),
                **({"truncated": True} if index in self.truncated else {}),
            }
            for index in order
        ]
