"""`/v1/completions`, `/v1/embeddings` and `/v1/rerank`: the bodies, the chunks of a stream, and whole answers. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import (
    Answer,
    Document,
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    InputType,
    RerankRequest,
    RerankResult,
    Text,
    TokenLogprob,
)
from ollmlx_openai_api.answering import requests
from ollmlx_openai_api.chat_request import CompletionFields, OpenAIBody
from ollmlx_openai_api.chat_response import Frame, usage

MOST_CHOICES = 128


def _texts_only(value: Any) -> Any:
    """Return the value. Raises ValueError for token ids: OpenAI's tokenizers made them, models here have others."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("send text: token ids of another tokenizer cannot be read here")
    return value


Texts = Annotated[str | tuple[str, ...], BeforeValidator(_texts_only)]
"""A text or several. Arrays of token ids are refused."""


class CompletionRequest(CompletionFields):
    """The whole body of `/v1/completions`. `prompt` is a text or several; each is continued on its own."""

    prompt: Texts = ""
    suffix: str = ""
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    def to_vocabulary(self) -> list[GenerateRequest]:
        """Return a request for each choice, ordered by prompt. No template is applied. Raises InvalidRequest."""
        if self.echo:
            raise InvalidRequest("echo is not supported")
        prompts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        if not 0 < len(prompts) * self.n <= MOST_CHOICES:
            raise InvalidRequest(f"prompt: 1 to {MOST_CHOICES} answers a request are possible")
        return [one for prompt in prompts for one in requests(self._continuing(prompt), self.n)]

    def _continuing(self, prompt: str) -> GenerateRequest:
        return GenerateRequest(
            prompt=prompt,
            suffix=self.suffix or None,
            options=self.sampling(self.max_tokens),
            top_logprobs=self.logprobs,
            truncate=False,
            shift=False,
        )


def logprobs(tokens: tuple[TokenLogprob, ...], offset: int = 0) -> dict[str, Any] | None:
    """Return the legacy block of parallel lists. `offset` is the number of characters before these tokens."""
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }


def text_completion(frame: Frame, choices: int, answers: list[Answer]) -> dict[str, Any]:
    """Return the completion object of a request that does not stream. Each prompt has this many `choices`."""
    made = [_choice(index, answer.text, logprobs(answer.logprobs), answer.done) for index, answer in enumerate(answers)]
    return {**frame, "choices": made, "usage": usage([answer.done for answer in answers], choices)}


def _choice(index: int, text: str, tokens: dict[str, Any] | None, done: Done | None) -> dict[str, Any]:
    finish = done and ("length" if done.reason == "length" else "stop")
    return {"index": index, "text": text, "logprobs": tokens, "finish_reason": finish}


class CompletionChunks:
    """Turns the events of one choice into chunks."""

    def __init__(self, frame: Frame, index: int = 0) -> None:
        self._frame = frame
        self._index = index
        self._offset = 0

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Text() if event.text or event.logprobs:
                yield self._chunk(event.text, logprobs(event.logprobs, self._offset))
                self._offset += len(event.text)
            case Done():
                yield self._chunk("", None, event)

    def _chunk(self, text: str, tokens: dict[str, Any] | None, done: Done | None = None) -> dict[str, Any]:
        return {**self._frame, "choices": [_choice(self._index, text, tokens, done)]}


class EmbeddingsRequest(OpenAIBody):
    """The whole body of `/v1/embeddings`. OpenAI's own clients ask for base64 by default."""

    model: str
    input: Texts
    input_type: InputType | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def to_vocabulary(self) -> EmbedRequest:
        inputs = (self.input,) if isinstance(self.input, str) else self.input
        return EmbedRequest(inputs=inputs, input_type=self.input_type, dimensions=self.dimensions)


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
