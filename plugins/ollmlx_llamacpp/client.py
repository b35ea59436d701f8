"""The client of llama.cpp's server on its unix socket: requests, its errors as our kinds, its records as our events."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson

from ollmlx.errors import Busy, ContextExceeded, InvalidRequest, OllmlxError, RunnerFailed, Unsupported
from ollmlx.runner.kit import freeform_call
from ollmlx.types import (
    Done,
    Event,
    GenerateRequest,
    Prefill,
    RawCall,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
    ToolCalled,
)

Json = dict[str, Any]
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.05
"""Seconds for which tokens stay in the socket, so that several are read and written at once: for each, runner, daemon
and client would take a core from llama.cpp for most of a millisecond, a tenth of what a small model needs."""


class CacheFull(RunnerFailed):
    """The cache that all sequences share is full. llama.cpp then ends every running request."""


_KINDS: dict[str, type[OllmlxError]] = {
    "exceed_context_size_error": ContextExceeded,
    "invalid_request_error": InvalidRequest,
    "not_supported_error": Unsupported,
    "unavailable_error": Busy,
}


class LlamaCppClient:
    """One session. Each request has its own connection, because llama.cpp closes idle ones without notice."""

    def __init__(self, socket: Path, key: str) -> None:
        """Open a session with `key` as its API key. Must be called on a running event loop."""
        self._session = aiohttp.ClientSession(
            "http://llamacpp",
            connector=aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True),
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 20,
        )

    async def post(self, path: str, body: Json) -> Any:
        """Return the answer's JSON. Raises the OllmlxError kind that llama.cpp's error stands for."""
        try:
            async with self._session.post(path, data=_payload(body)) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise error_of(data)
                return orjson.loads(data)
        except aiohttp.ClientError as error:
            raise RunnerFailed(f"llama.cpp does not answer: {error or type(error).__name__}") from error

    async def media_marker(self) -> str:
        """Return the text that stands for a picture or a sound in a prompt; it is drawn anew when the server starts."""
        async with self._session.get("/props") as answer:
            found = orjson.loads(await answer.read())
        if answer.status != 200 or not found.get("media_marker"):
            raise RunnerFailed("llama.cpp does not tell its marker of pictures; pip install --upgrade xllamacpp")
        return str(found["media_marker"])

    async def stream(self, path: str, body: Json) -> AsyncIterator[Json]:
        """Yield the records of an answer as they arrive. Closing the iterator closes the connection, which cancels."""
        answer: aiohttp.ClientResponse | None = None
        try:
            answer = await self._session.post(path, data=_payload({**body, "stream": True}))
            if answer.status != 200:
                raise error_of(await answer.read())
            async for record in records(_pieces(answer)):
                if "error" in record:
                    raise error_of(orjson.dumps(record))
                yield record
        except aiohttp.ClientError as error:
            raise RunnerFailed(f"llama.cpp closed the connection: {error or type(error).__name__}") from error
        finally:
            if answer is not None:
                answer.close()

    async def close(self) -> None:
        """Close the session and let its connections end."""
        await self._session.close()
        await asyncio.sleep(0)


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield what arrives: before the first token, and where tokens take long, at once; else what came in a pause."""
    began, asked = 0.0, time.monotonic()
    while piece := await answer.content.readany():
        now = time.monotonic()
        waited = now - asked
        yield piece
        transport = answer.connection.transport if answer.connection is not None else None
        if b'"prompt_progress"' not in piece and transport is not None:
            began = began or now
            if seconds := pause(waited, now - began):
                transport.pause_reading()
                await asyncio.sleep(seconds)
                transport.resume_reading()
        asked = time.monotonic()


def pause(waited: float, elapsed: float) -> float:
    """Return the seconds to leave tokens in the socket: none when the last one was waited for longer than that.

    The pause grows with the seconds since the first token, so that a short answer does not end later.
    """
    seconds = min(LONGEST_PAUSE, SHORTEST_PAUSE + elapsed / 40)
    return seconds if waited < seconds else 0.0


def _payload(body: Json) -> io.BytesIO:
    """Return a body that aiohttp sends in pieces: a long prompt keeps no other request waiting."""
    return io.BytesIO(orjson.dumps(body))


async def records(pieces: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    """Yield the JSON after each `data: ` or `error: `.

    Lines are put together here: they may be longer than aiohttp's line reader allows.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            start = line.find(b"{")
            if start >= 0 and line.startswith(b"data:"):
                yield orjson.loads(line[start:])
            elif start >= 0 and line.startswith(b"error:"):
                yield {"error": orjson.loads(line[start:])}


def error_of(data: bytes) -> OllmlxError:
    """Return the error that llama.cpp's error record stands for; RunnerFailed when it is no such record."""
    try:
        found = orjson.loads(data)["error"]
        message, kind = str(found["message"]), str(found.get("type", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return RunnerFailed(f"llama.cpp failed: {data[:300].decode('utf-8', 'replace')}")
    full = message.startswith("Context size has been exceeded")
    error = (CacheFull if full else _KINDS.get(kind, RunnerFailed))(f"llama.cpp: {message}")
    tokens, context = found.get("n_prompt_tokens"), found.get("n_ctx")
    if isinstance(error, ContextExceeded) and isinstance(tokens, int) and isinstance(context, int):
        error.excess = (tokens, context)
    return error


# -- records of an answer ----------------------------------------------------------------------------------------------


@dataclass
class RecordReader:
    """Reads the records of one answer. `dropped` is the number of prompt tokens that were left out.

    `tokens` are the answer's ids, which llama.cpp sends only for plain text; `text` is the answer so far. `calls`: the
    whole text is a tool call; `freeform`: it is what the freeform tool of this request takes.
    """

    dropped: int
    top_logprobs: int | None
    show_thinking: bool = True
    calls: bool = False
    freeform: GenerateRequest | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    _began: int = field(default_factory=time.monotonic_ns)
    _final: Json | None = None
    _calls: dict[int, Json] = field(default_factory=dict)

    def feed(self, record: Json) -> list[Event]:
        if (progress := record.get("prompt_progress")) is not None:
            return [
                Prefill(
                    done=min(progress["processed"], progress["total"]),
                    total=progress["total"],
                    cached=min(progress["cache"], progress["processed"]),
                    dropped=self.dropped,
                )
            ]
        choices = record.get("choices")
        return self._read_text(record) if choices is None else self._read_chat(record, choices)

    def _read_text(self, record: Json) -> list[Event]:
        self.tokens += [token for token in record.get("tokens") or () if isinstance(token, int)]
        events = self._text_event(record.get("content"), record.get("completion_probabilities"))
        if record.get("stop"):
            self._final = record
        return events

    def _read_chat(self, record: Json, choices: Sequence[Json]) -> list[Event]:
        events: list[Event] = []
        for choice in choices[:1]:
            delta = choice.get("delta") or {}
            entries = (choice.get("logprobs") or {}).get("content")
            if (thought := delta.get("reasoning_content")) and self.show_thinking:
                events.append(Thinking(text=thought, logprobs=self._logprobs(entries)))
                entries = None
            events += self._text_event(delta.get("content"), entries)
            for call in delta.get("tool_calls") or ():
                events += self._add_call(call)
        if (verbose := record.get("__verbose")) is not None:
            self._final = {**verbose, "timings": record.get("timings") or verbose.get("timings") or {}}
        return events

    def _text_event(self, text: str | None, entries: Sequence[Json] | None) -> list[Event]:
        if not text:
            return []
        self.text += text
        if self.calls or self.freeform is not None:
            return []
        return [Text(text=text, logprobs=self._logprobs(entries))]

    def _add_call(self, delta: Json) -> list[Event]:
        """Add a piece of a tool call. A call is complete when the next one begins."""
        index = int(delta.get("index") or 0)
        complete = [] if index in self._calls else self._complete_calls()
        call = self._calls.setdefault(index, {"name": "", "arguments": "", "id": None})
        function = delta.get("function") or {}
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""
        call["id"] = delta.get("id") or call["id"]
        return complete

    def _complete_calls(self) -> list[Event]:
        calls, self._calls = self._calls, {}
        return [_called(call) for call in calls.values()]

    @property
    def answer(self) -> list[int]:
        """The answer's ids, without the one that ended it."""
        ended = self._final is not None and self._final.get("stop_type") == "eos"
        return self.tokens[:-1] if ended else self.tokens

    def end(self, context: Sequence[int]) -> list[Event]:
        """Return the last events, ending with Done. `context` are the ids of prompt and answer.

        Raises RunnerFailed when the records ended without a final one.
        """
        final = self._final
        if final is None:
            raise RunnerFailed("llama.cpp ended its answer without a result")
        timings: dict[str, Any] = final.get("timings") or {}
        cached, computed = int(timings.get("cache_n") or 0), int(timings.get("prompt_n") or 0)
        reason: Literal["stop", "length"] = "length" if final.get("stop_type") == "limit" else "stop"
        done = Done(
            reason=reason,
            prompt_tokens=cached + computed,
            cached_tokens=cached,
            generated_tokens=int(timings.get("predicted_n") or 0),
            prefill_ns=int(float(timings.get("prompt_ms") or 0) * 1e6),
            decode_ns=int(float(timings.get("predicted_ms") or 0) * 1e6),
            total_ns=time.monotonic_ns() - self._began,
            dropped=self.dropped,
            stop=final.get("stopping_word") or None,
            context=tuple(context),
        )
        return [*self._complete_calls(), *self._written(), done]

    def _written(self) -> list[Event]:
        """Return the call that the text is."""
        if self.freeform is not None:
            return [ToolCalled(call=freeform_call(self.freeform, self.text))]
        return [RawCall(text=self.text)] if self.calls else []

    def _logprobs(self, entries: Sequence[Json] | None) -> tuple[TokenLogprob, ...]:
        if self.top_logprobs is None or not entries:
            return ()
        return tuple(self._logprob(entry) for entry in entries)

    def _logprob(self, entry: Json) -> TokenLogprob:
        tops = list(entry.get("top_logprobs") or ())[: self.top_logprobs]
        return TokenLogprob(
            token=entry["token"],
            logprob=_bounded(entry["logprob"]),
            id=entry["id"],
            top=tuple(TokenLogprob(token=top["token"], logprob=_bounded(top["logprob"]), id=top["id"]) for top in tops),
        )


def _bounded(logprob: float | None) -> float:
    # llama.cpp writes null for minus infinity.
    return min(0.0, logprob) if logprob is not None else -1e9


def _called(call: Json) -> ToolCalled | RawCall:
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return RawCall(name=call["name"], text=call["arguments"])
    return ToolCalled(call=ToolCall(name=call["name"], arguments=arguments, id=call["id"] or None))
