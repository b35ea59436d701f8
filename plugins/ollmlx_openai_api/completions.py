"""`/v1/completions`: the body, the chunks of a stream, and the completion object of a whole answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import Answer, Done, Event, GenerateRequest, Text, TokenLogprob
from ollmlx_openai_api.answering import requests
from ollmlx_openai_api.chat_request import SamplingFields, StreamOptions, Texts
from ollmlx_openai_api.chat_response import FINGERPRINT, usage

MOST_CHOICES = 128


class CompletionRequest(SamplingFields):
    """The whole body. `prompt` is a text or several; each is continued on its own."""

    model: str
    prompt: Texts = ""
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None

    @property
    def choices(self) -> int:
        """The number of choices for each prompt."""
        return self.n or 1

    def to_vocabulary(self) -> list[GenerateRequest]:
        """Return a request for each choice, ordered by prompt. No template is applied. Raises InvalidRequest."""
        if self.echo:
            raise InvalidRequest("echo is not supported")
        prompts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        if not 0 < len(prompts) * self.choices <= MOST_CHOICES:
            raise InvalidRequest(f"prompt: 1 to {MOST_CHOICES} answers a request are possible")
        return [one for prompt in prompts for one in requests(self._continuing(prompt), self.choices)]

    def _continuing(self, prompt: str) -> GenerateRequest:
        return GenerateRequest(
            prompt=prompt,
            suffix=self.suffix or None,
            options=self.sampling(self.max_tokens),
            top_logprobs=self.logprobs,
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


def completion(id_: str, body: CompletionRequest, created: int, answers: list[Answer]) -> dict[str, Any]:
    """Return the completion object of a request that does not stream."""
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": logprobs(answer.logprobs),
            "finish_reason": _finish(answer.done),
        }
        for index, answer in enumerate(answers)
    ]
    return {
        "id": id_,
        "object": "text_completion",
        "created": created,
        "model": body.model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage([answer.done for answer in answers], body.choices),
    }


def _finish(done: Done) -> str:
    return "length" if done.reason == "length" else "stop"


class CompletionChunks:
    """Turns the events of one choice into chunks."""

    def __init__(self, id_: str, body: CompletionRequest, created: int, index: int = 0) -> None:
        counted = body.stream_options is not None and body.stream_options.include_usage
        self._frame: dict[str, Any] = {
            "id": id_,
            "object": "text_completion",
            "created": created,
            "model": body.model,
            "system_fingerprint": FINGERPRINT,
        } | ({"usage": None} if counted else {})
        self._choices = body.choices
        self._index = index
        self._offset = 0

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the chunks of an event."""
        match event:
            case Text() if event.text or event.logprobs:
                yield self._chunk(event.text, logprobs(event.logprobs, self._offset), None)
                self._offset += len(event.text)
            case Done():
                yield self._chunk("", None, _finish(event))

    def usage(self, ends: Sequence[Done]) -> dict[str, Any]:
        """Return the last chunk, for clients that asked for usage."""
        return {**self._frame, "choices": [], "usage": usage(ends, self._choices)}

    def _chunk(self, text: str, tokens: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        choice = {"index": self._index, "text": text, "logprobs": tokens, "finish_reason": finish}
        return {**self._frame, "choices": [choice]}
