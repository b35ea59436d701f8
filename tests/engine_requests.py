"""Requests to an engine in a test: its configuration, one request to its end, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollmlx import closing
from ollmlx.plugin.contracts import Engine
from ollmlx.protocol import RunnerConfig
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import (
    Done,
    GenerateRequest,
    Message,
    Options,
    Prefill,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
    ToolCalled,
)


@dataclass
class Collected:
    """The events of one request, put together."""

    text: str = ""
    pieces: list[str] = field(default_factory=list)
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    prefills: list[Prefill] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Done = field(default_factory=Done)


def config_for(folder: Path, **changes: Any) -> RunnerConfig:
    """Return a runner's configuration for an MLX folder."""
    name = folder.name.replace("@", ":")
    model = fake_model(name, store="hub", format="mlx", path=folder, capabilities=("completion",))
    values = {"runner": "r", "token": "t", "context_length": 2048, "prompt_cache_bytes": 1 << 28, "model": model}
    return RunnerConfig(**(values | changes))


def ask(*messages: str, options: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    """Return a conversation that alternates user and assistant; greedy and short unless the options differ."""
    turns = tuple(
        Message(role="assistant" if index % 2 else "user", content=content) for index, content in enumerate(messages)
    )
    chosen = {"temperature": 0, "num_predict": 12, **(options or {})}
    return GenerateRequest(messages=turns, options=Options(**chosen), **fields)


def plain(prompt: str, options: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    """Return a request with a plain prompt."""
    chosen = {"temperature": 0, "num_predict": 12, **(options or {})}
    return GenerateRequest(prompt=prompt, options=Options(**chosen), **fields)


@asynccontextmanager
async def running(engine: Engine, folder: Path, **changes: Any) -> AsyncIterator[Any]:
    """Load a folder into the engine, and close the engine at the end of the block."""
    try:
        await engine.load(config_for(folder, **changes))
        yield engine
    finally:
        await engine.close()


async def collect(engine: Engine, request: GenerateRequest) -> Collected:
    """Run one request to its end."""
    result = Collected()
    async with closing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case Text():
                    result.text += event.text
                    result.pieces.append(event.text)
                    result.logprobs += event.logprobs
                case Thinking():
                    result.thinking += event.text
                case ToolCalled():
                    result.calls.append(event.call)
                case Prefill():
                    result.prefills.append(event)
                case Done():
                    result.done = event
    return result


async def together(engine: Engine, requests: Sequence[GenerateRequest]) -> list[Collected]:
    """Run several requests at once."""
    return list(await asyncio.gather(*(collect(engine, request) for request in requests)))


async def cancel_when(engine: Engine, request: GenerateRequest, kind: type) -> None:
    """Close a request at its first event of a kind."""
    async with closing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, kind):
                return
