"""The engine of the llama.cpp backend: what a runner asks for, asked of llama.cpp's own server in the same process.

llama.cpp batches, caches and samples on threads of its own; closing a connection to it cancels.
"""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ollmlx import closing, read_gguf_header
from ollmlx.errors import InvalidRequest, RunnerFailed
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.types import EmbedRequest, EmbedResult, Event, GenerateRequest
from ollmlx_llamacpp import native
from ollmlx_llamacpp.answer import Reader
from ollmlx_llamacpp.link import Link
from ollmlx_llamacpp.prompt import Prompt, PromptBuilder, refuse

GROUP_TOKENS = 2048
"""Tokens of texts that are embedded by one call: llama.cpp tells nothing of its progress within one."""


class LlamaCppEngine:
    """Implements `ollmlx.plugin.contracts.Engine`."""

    def __init__(self) -> None:
        self._config: RunnerConfig | None = None
        self._native: native.Native | None = None
        self._link: Link | None = None
        self._prompts: PromptBuilder | None = None
        self._steps = 0
        self._running = 0
        self._totals = {"prompt": 0, "cached": 0, "generated": 0}

    async def load(self, config: RunnerConfig) -> None:
        """Load the model. Raises StorageError, Unsupported, OutOfMemory."""
        self._config = config
        self._native = await asyncio.to_thread(native.start, config)
        native.keep_signals()
        self._link = Link.open(self._native.socket, self._native.key)
        metadata = (await asyncio.to_thread(read_gguf_header, config.model.path, longest=0)).metadata
        self._prompts = PromptBuilder(
            self._link,
            config.model.name.short,
            config.context_length,
            templated=bool(metadata.get("tokenizer.chat_template")),
            sees=config.model.defaults.projector is not None,
        )

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Events of one request. Raises OllmlxError kinds; closing the iterator cancels at any phase."""
        link, prompts = self._ready()
        self._running += 1
        try:
            prompt = await prompts.build(request)
            reader = Reader(prompt, tops=request.top_logprobs, show_thinking=request.think is not False)
            async with closing(link.stream(prompt.path, prompt.body)) as records:
                async for record in records:
                    self._steps += 1
                    for event in reader.feed(record):
                        yield event
            for event in reader.end(await self._context(prompt, reader)):
                if event.type == "done":
                    self._count(event.prompt_tokens, event.cached_tokens, event.generated_tokens)
                yield event
        finally:
            self._running -= 1

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """One vector per input. Raises ContextExceeded for a text that may not be cut and does not fit."""
        link, prompts = self._ready()
        began = time.monotonic_ns()
        room = self._config.context_length if self._config else 0
        inputs = []
        for text in request.inputs:
            tokens = await prompts.encode(text)
            self._steps += 1
            if not tokens:
                raise InvalidRequest("a text to embed is empty")
            if len(tokens) > room:
                if not request.truncate:
                    raise refuse(len(tokens), room)
                tokens = tokens[:room]
            inputs.append(tokens)
        vectors: list[tuple[float, ...]] = []
        self._running += 1
        try:
            for group in _groups(inputs):
                answer = await link.post("/v1/embeddings", {"input": group, "encoding_format": "float"})
                self._steps += 1
                entries = sorted(answer["data"], key=lambda entry: entry["index"])
                vectors += [_shaped(entry["embedding"], request) for entry in entries]
        finally:
            self._running -= 1
        count = sum(map(len, inputs))
        self._count(count, 0, 0)
        return EmbedResult(embeddings=tuple(vectors), prompt_tokens=count, total_ns=time.monotonic_ns() - began)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Token ids of a text, or of a conversation through the chat template."""
        _, prompts = self._ready()
        if not request.messages:
            return Tokens(tokens=tuple(await prompts.encode(request.text or "")))
        asked = GenerateRequest(messages=request.messages, tools=request.tools, template=request.template)
        return Tokens(tokens=tuple(await prompts.tokens(request.messages, asked)))

    async def detokenize(self, tokens: Tokens) -> str:
        """The text of token ids."""
        link, _ = self._ready()
        return str((await link.post("/detokenize", {"tokens": list(tokens.tokens)}))["content"])

    def status(self) -> Progress:
        """Counters only: never waits for llama.cpp."""
        config, loaded = self._config, self._native
        context = config.context_length if config else 0
        if loaded is None or self._prompts is None:
            return Progress(engine="llamacpp", state="loading", progress=_work_done(), context_length=context)
        return Progress(
            engine="llamacpp",
            state="ready",
            progress=self._steps,
            load_fraction=1.0,
            active=min(self._running, loaded.slots),
            queued=max(0, self._running - loaded.slots),
            parallel=loaded.slots,
            context_length=context,
            prompt_tokens_total=self._totals["prompt"],
            cached_tokens_total=self._totals["cached"],
            generated_tokens_total=self._totals["generated"],
            device=loaded.device,
            notes=loaded.notes,
        )

    async def trim(self) -> None:
        """Nothing: llama.cpp gives its caches back only with the model, and they are bounded."""

    async def close(self) -> None:
        """Stop llama.cpp."""
        if self._link is not None:
            await self._link.close()
        if self._native is not None:
            await asyncio.to_thread(self._native.close)

    def _ready(self) -> tuple[Link, PromptBuilder]:
        if self._link is None or self._prompts is None:
            raise RunnerFailed("the model is not loaded")
        return self._link, self._prompts

    async def _context(self, prompt: Prompt, reader: Reader) -> list[int]:
        """The ids of prompt and answer. llama.cpp tells those of a conversation's answer only as text."""
        _, prompts = self._ready()
        tokens = reader.tokens
        if not tokens and reader.text:
            tokens = await prompts.encode(reader.text, special=False)
        return [*prompt.tokens, *tokens]

    def _count(self, prompt: int, cached: int, generated: int) -> None:
        self._totals["prompt"] += prompt
        self._totals["cached"] += cached
        self._totals["generated"] += generated


def _groups(inputs: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The texts in order, as many at a time as a call takes; one that is longer goes alone."""
    group: list[Sequence[int]] = []
    size = 0
    for tokens in inputs:
        if group and size + len(tokens) > GROUP_TOKENS:
            yield group
            group, size = [], 0
        group.append(tokens)
        size += len(tokens)
    if group:
        yield group


def _shaped(vector: list[float], request: EmbedRequest) -> tuple[float, ...]:
    """A vector of unit length (llama.cpp makes it so), cut to the dimensions that were asked for."""
    if request.dimensions is not None and request.dimensions < len(vector):
        vector = vector[: request.dimensions]
        length = math.sqrt(sum(x * x for x in vector)) or 1.0
        vector = [x / length for x in vector]
    return tuple(vector)


def _work_done() -> int:
    """Grows while a model is loaded: processor time in hundredths of a second, and what was read from the disk."""
    used: Any = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 100) + int(used.ru_inblock) + int(used.ru_majflt)
