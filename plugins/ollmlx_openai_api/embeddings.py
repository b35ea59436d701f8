"""`/v1/embeddings`: the body, and the answer with the vectors. Pure."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from pydantic import Field

from ollmlx.types import EmbedRequest, EmbedResult
from ollmlx_openai_api.chat_request import OpenAIBody, Texts


class EmbeddingsRequest(OpenAIBody):
    """The whole body. OpenAI's own clients ask for base64 by default."""

    model: str
    input: Texts
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def to_vocabulary(self) -> EmbedRequest:
        """Translate the body into a request."""
        inputs = (self.input,) if isinstance(self.input, str) else self.input
        return EmbedRequest(inputs=inputs, dimensions=self.dimensions)


def embeddings(model: str, result: EmbedResult, encoding: str | None) -> dict[str, Any]:
    """Return the answer. In base64 a vector is little-endian float32."""
    vectors: list[Any] = [list(vector) for vector in result.embeddings]
    if encoding == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }
