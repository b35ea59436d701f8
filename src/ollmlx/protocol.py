"""Runner Protocol v1, between the daemon and a runner. See docs/runner-protocol.md.

The protocol is HTTP with JSON over a unix socket. The daemon binds the socket and passes it to the runner, which finds
the file descriptor in `--fd`. The first line on the runner's standard input is its `RunnerConfig`. Standard input then
stays open; when it ends, the daemon is gone and the runner exits.
"""

from __future__ import annotations

import operator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from ollmlx.types import Event, Frozen, InstalledModel, Message, Tool

PROTOCOL_VERSION = 1

TRACEPARENT: ContextVar[str] = ContextVar("ollmlx_traceparent", default="")
"""The W3C trace context of the request that the running task serves. The daemon sends it to the runner as the header
`traceparent`; engines that call other services can pass it on."""


class ExitCode:
    """Exit codes of a runner. They tell the daemon whether a retry can succeed."""

    ASKED = 0
    USAGE = 64  # bad arguments or configuration: no retry
    BAD_MODEL = 65  # the model's files cannot be loaded: no retry
    PROTOCOL = 66  # the two sides speak different versions: no retry
    INTERNAL = 70  # a bug: retry with back-off
    OUT_OF_MEMORY = 75  # evict others, retry once
    PARENT_GONE = 86


class RunnerConfig(Frozen):
    """The configuration of a runner, which reads no environment variables and no settings.

    `context_length` is in tokens. `parallel`: the batch width, 0 for the engine's choice. Memory is in bytes; None is
    no limit. `wired`: the memory that Metal never pages out (nothing, the model, or all that Metal recommends).
    `prompt_cache_bytes` limits the prefix cache in memory. `cache_dir`: the private folder in which this model's
    prefix caches are saved, with at most `cache_dir_bytes`; `cache_key`, in hexadecimal, encrypts them.
    `owned_caches`: requests name the owner whose prefix caches they may use. These two are sent only when they are set.
    `engine_options`: the values of `RunnerCommand.engine_options`.
    """

    protocol: int = PROTOCOL_VERSION
    runner: str
    token: str
    model: InstalledModel
    context_length: int
    parallel: int = 0
    memory_limit: int | None = None
    cache_limit: int | None = None
    wired: Literal["off", "model", "max"] = "off"
    prompt_cache_bytes: int = 0
    cache_dir: Path | None = None
    cache_dir_bytes: int = 0
    cache_key: str | None = Field(None, repr=False, exclude_if=operator.not_)
    owned_caches: bool = Field(False, exclude_if=operator.not_)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    debug_prompts: bool = False
    allow_remote_code: bool = False
    engine_options: dict[str, Any] = {}


class Progress(Frozen):
    """The response of `GET /v1/status`. It never waits for the compute thread.

    `progress` grows with each token, vector, prefill chunk or load step. A runner with `active` > 0 whose `progress`
    does not grow hangs. Memory is in bytes, as the allocator of the engine counts it. `stuck`: a thread will never end,
    so the runner gets no more requests, and is replaced after those that it has.
    `pool_tokens`: what the caches of all sequences may hold together; 0 where they have no pool.
    """

    protocol: int = PROTOCOL_VERSION
    engine: str
    state: Literal["loading", "ready", "failed", "closing"]
    progress: int = 0
    load_fraction: float = 0.0
    active: int = 0
    queued: int = 0
    parallel: int = 1
    context_length: int = 0
    memory_active: int = 0
    memory_cache: int = 0
    memory_peak: int = 0
    pool_tokens: int = 0
    pool_used: int = 0
    prompt_cache_bytes: int = 0
    prompt_cache_entries: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    device: str = ""
    notes: tuple[str, ...] = ()
    stuck: bool = Field(False, exclude_if=operator.not_)
    error: str | None = None


class TokenizeRequest(Frozen):
    """The body of `POST /v1/tokenize`: plain text, or a conversation for the chat template (`messages`)."""

    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    template: str | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(None, exclude_if=lambda think: think is None)


class Tokens(Frozen):
    """Token ids: the response of `POST /v1/tokenize` and the body of `POST /v1/detokenize`.

    `prompt`: the text that a conversation became; sent only for one, and not by engines of before.
    """

    tokens: tuple[int, ...]
    prompt: str | None = Field(None, exclude_if=lambda prompt: prompt is None)


class Detokenized(Frozen):
    """The response of `POST /v1/detokenize`."""

    text: str


class Problem(Frozen):
    """The body of every response that is not 200. `kind`: a kind of `ollmlx.errors`.

    `excess`, of kind `context_exceeded`: the tokens of the prompt, and the most that fit.
    """

    kind: str
    message: str
    code: str | None = None
    excess: tuple[int, int] | None = None


EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode_event(event: Event) -> bytes:
    """Encode an event as one NDJSON line."""
    return event.__pydantic_serializer__.to_json(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Decode one NDJSON line. Raises pydantic.ValidationError."""
    return EVENT.validate_json(line)
