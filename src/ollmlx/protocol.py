"""Runner Protocol v1: what the daemon and a runner say to each other. See docs/runner-protocol.md.

HTTP with JSON over a unix socket that the daemon bound and handed down (file descriptor in `--fd`). The first line on
the runner's standard input is its `RunnerConfig`; standard input then stays open, and its end means "parent gone".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from ollmlx.types import Event, Frozen, InstalledModel, Message, Tool

PROTOCOL_VERSION = 1


class ExitCode:
    """Why a runner ended, for the daemon: what retrying can help."""

    ASKED = 0
    USAGE = 64  # bad arguments or configuration: no retry
    BAD_MODEL = 65  # the model's files cannot be loaded: no retry
    PROTOCOL = 66  # the two sides speak different versions: no retry
    INTERNAL = 70  # a bug: retry with back-off
    OUT_OF_MEMORY = 75  # evict others, retry once
    PARENT_GONE = 86


class RunnerConfig(Frozen):
    """All a runner needs to know; it reads no environment and no settings of its own accord.

    `context_length` in tokens; `parallel` is the batch width (0: the engine chooses); memory figures in bytes, None is
    no limit; `wired` is what Metal keeps from being paged out: nothing, the model, or all it recommends.
    `prompt_cache_bytes` bounds the prefix cache in memory; `cache_dir` (private to the user) is where it survives, in
    at most `cache_dir_bytes` for all models together.
    `engine_options` belong to the backend that launched it.
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
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    debug_prompts: bool = False
    allow_remote_code: bool = False
    engine_options: dict[str, Any] = {}


class Progress(Frozen):
    """Answer of `GET /v1/status`. Never waits for the compute thread.

    `progress` grows with each token, vector, prefill chunk or load step: standing still with `active` > 0 means hung.
    `state`: `loading`, `ready`, `failed`. Memory in bytes as the engine's own allocator sees it.
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
    prompt_cache_bytes: int = 0
    prompt_cache_entries: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    device: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None


class TokenizeRequest(Frozen):
    """`POST /v1/tokenize`: plain text, or a conversation through the chat template when `messages` is given."""

    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    template: str | None = None


class Tokens(Frozen):
    """Token ids: answer of tokenize, body of `POST /v1/detokenize`."""

    tokens: tuple[int, ...]


class Detokenized(Frozen):
    """Answer of `POST /v1/detokenize`."""

    text: str


class Problem(Frozen):
    """Body of every answer that is not 200: `kind` is a kind of `ollmlx.errors`."""

    kind: str
    message: str
    code: str | None = None


EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode_event(event: Event) -> bytes:
    """One NDJSON line."""
    return event.__pydantic_serializer__.to_json(event, exclude_defaults=False) + b"\n"


def decode_event(line: bytes) -> Event:
    """The event of one NDJSON line. Raises pydantic.ValidationError."""
    return EVENT.validate_json(line)
