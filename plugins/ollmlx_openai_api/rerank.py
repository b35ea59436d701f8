"""`/v1/rerank`: the body and the answer, with the fields of Cohere's and Jina's APIs. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ollmlx.types import Document, RerankRequest, RerankResult
from ollmlx_openai_api.chat_request import OpenAIBody


class RerankFields(OpenAIBody):
    """The whole body of `/v1/rerank`."""

    model: str
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[tuple[Document, ...], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    truncate: bool = True

    def to_vocabulary(self) -> RerankRequest:
        return RerankRequest(query=self.query, documents=self.documents, truncate=self.truncate)


def reranked(id: str, body: RerankFields, request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {
        "id": id,
        "object": "list",
        "model": body.model,
        "results": result.ranked(request, body.top_n, with_documents=body.return_documents),
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }
