"""Documents cut to the room that a query leaves them."""

from __future__ import annotations

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.types import RerankRequest


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
