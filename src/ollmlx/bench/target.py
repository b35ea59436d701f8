"""A server that is measured: the requests that it gets, and the times of its answers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from ollmlx.errors import UpstreamError

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A server and a model on it. `url` has no slash at its end; for the OpenAI dialect it ends in `/v1`."""

    label: str
    url: str
    model: str
    dialect: Literal["openai", "ollama"] = "openai"
    key: str | None = None
    options: Json = field(default_factory=dict)

    def request(self, messages: list[Json], tokens: int) -> tuple[str, Json]:
        """Return the URL and the body of a streamed, greedy chat request."""
        body: Json = {"model": self.model, "messages": messages, "stream": True}
        if self.dialect == "ollama":
            options = {"temperature": 0, "num_predict": tokens, **self.options}
            return f"{self.url}/api/chat", {**body, "options": options}
        usage = {"stream_options": {"include_usage": True}}
        return f"{self.url}/chat/completions", {**body, "max_tokens": tokens, "temperature": 0, **usage}

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass
class TimedAnswer:
    """An answer with its times on a monotonic clock, in seconds.

    `tokens`: as the server counts them, or else the pieces of text.
    """

    sent: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    text: str = ""

    @property
    def first_token(self) -> float:
        """Seconds from the request to the first piece of text."""
        return self.first - self.sent


async def ask(session: aiohttp.ClientSession, target: Target, messages: list[Json], tokens: int) -> TimedAnswer:
    """Send a request and record the time of each piece. Raises UpstreamError unless the answer is complete."""
    url, body = target.request(messages, tokens)
    answer, pieces = TimedAnswer(time.perf_counter()), 0
    try:
        async with session.post(url, json=body, headers=target.headers) as response:
            if response.status != 200:
                raise UpstreamError(f"{target.label} answered {response.status}: {(await response.text())[:300]}")
            async for record in _records(response):
                if piece := _piece(target, record):
                    answer.last = time.perf_counter()
                    answer.first = answer.first or answer.last
                    answer.text += piece
                    pieces += 1
                _count(answer, record)
    except aiohttp.ClientError as error:
        raise UpstreamError(f"{target.label} broke off: {error or type(error).__name__}") from error
    if not answer.first:
        raise UpstreamError(f"{target.label} sent an empty answer", hint="measure a model that can chat")
    answer.tokens = answer.tokens or pieces
    return answer


async def _records(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Yield the JSON objects of an NDJSON or SSE answer. Raises UpstreamError for an error among them."""
    async for line in response.content:
        text = line.strip().removeprefix(b"data:").strip()
        if not text.startswith(b"{"):
            continue
        record: Json = json.loads(text)
        if record.get("error"):
            raise UpstreamError(f"{response.url.host}:{response.url.port} failed: {record['error']}")
        yield record


def _piece(target: Target, record: Json) -> str:
    if target.dialect == "ollama":
        message = record.get("message") or {}
        return str(message.get("content") or message.get("thinking") or "")
    choices = record.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return str(delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content") or "")


def _count(answer: TimedAnswer, record: Json) -> None:
    usage = record.get("usage") or {}
    answer.tokens = usage.get("completion_tokens") or record.get("eval_count") or answer.tokens
    answer.prompt_tokens = usage.get("prompt_tokens") or record.get("prompt_eval_count") or answer.prompt_tokens
