"""The engine of the llama.cpp backend: the runner's requests, answered by llama.cpp's own server in the same process.

llama.cpp batches, caches and samples on threads of its own; closing a connection to it cancels.
"""

from __future__ import annotations

import asyncio
import math
import resource
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ollmlx import closing
from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit import TextFrame, document_room
from ollmlx.types import EmbedRequest, EmbedResult, Event, GenerateRequest, RerankRequest, RerankResult
from ollmlx_llamacpp import server
from ollmlx_llamacpp.client import CacheFull, Json, LlamaCppClient, RecordReader
from ollmlx_llamacpp.pool import TokenPool
from ollmlx_llamacpp.prompt import LlamaCppPrompt, LlamaCppPrompts
from ollmlx_llamacpp.sharing import SharedPrompts
from ollmlx_llamacpp.slots import Slots
from ollmlx_llamacpp.spinning import watch
from ollmlx_llamacpp.thoughts import ThoughtReader

GROUP_TOKENS = 2048
"""Tokens of the texts that one call embeds: llama.cpp reports no progress within a call."""

GROUP_DOCUMENTS = 16
"""Documents that one call scores, for the same reason."""
SPECIAL_TOKENS = 5
"""Special tokens around a query and a document, at most."""

RESERVE = 1024
"""Tokens beside the prompt that a request claims of a shared cache, at most, when its answer may be longer. When the
cache is full all the same, running requests are put back, claim four times as much, and go on where they were."""
LONGEST_SEED = 2**31


class LlamaCppEngine:
    """Implements `ollmlx.plugin.contracts.Engine`. `start` and `connect` are replaced in tests."""

    def __init__(
        self,
        start: Callable[[RunnerConfig], server.LlamaCppServer] = server.start,
        connect: Callable[..., LlamaCppClient] = LlamaCppClient,
    ) -> None:
        self._start = start
        self._connect = connect
        self._context_length = 0
        self._server: server.LlamaCppServer | None = None
        self._client: LlamaCppClient
        self._prompts: LlamaCppPrompts
        self._slots: Slots
        self._shared: SharedPrompts | None = None
        self._frame: TextFrame | None = None
        self._steps = 0
        self._running = 0
        self._totals = {"prompt": 0, "cached": 0, "generated": 0}
        self._pool: TokenPool | None = None
        self._watching: asyncio.Task[None] | None = None

    async def load(self, config: RunnerConfig) -> None:
        """Load the model. Raises StorageError, Unsupported, OutOfMemory."""
        self._context_length = config.context_length
        self._server = await asyncio.to_thread(self._start, config)
        server.restore_signals()
        self._pool = TokenPool(self._server.pool) if self._server.pool else None
        saves = self._pool is not None and config.prompt_cache_bytes >> 20 > 0
        self._slots = Slots(self._server.slots, owned=config.owned_caches, saves=saves)
        self._client = self._connect(self._server.socket, self._server.key)
        if self._server.saves_slots:
            self._shared = SharedPrompts(self._client, self._server.socket.parent)
        self._prompts = LlamaCppPrompts(
            self._client,
            config.model.name.short,
            config.context_length,
            template=self._server.template,
            marker=await self._client.media_marker() if config.model.defaults.projector is not None else "",
            stated=config.model.defaults.template,
        )

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        if request.top_logprobs is not None and self._server is not None and self._server.guesses:
            raise Unsupported(
                "llama.cpp knows no logprobs of tokens that were guessed",
                hint="remove the draft model, or [plugins.llamacpp] guess",
            )
        with self._work():
            prompt = await self._prompts.build(_seeded(await _heard(request)))
            async with closing(self._attempts(prompt, request)) as events:
                async for event in events:
                    if event.type == "done":
                        self._count(event.prompt_tokens, event.cached_tokens, event.generated_tokens)
                    yield event

    @contextmanager
    def _work(self) -> Iterator[None]:
        """Count a request as running. While there is one, its server's threads wait as the machine allows."""
        spin = self._server.spin if self._server is not None else None
        self._running += 1
        if self._running == 1 and spin is not None:
            self._watching = asyncio.create_task(watch(spin))
        try:
            yield
        finally:
            self._running -= 1
            if self._running == 0 and self._watching is not None:
                self._watching.cancel()

    async def _attempts(self, prompt: LlamaCppPrompt, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield the events of a request that waits for room in the shared cache, and is put back when that is full.

        Its seed is fixed, so it makes the same answer again; what was sent before is not sent twice.
        """
        pool = self._pool or TokenPool(sys.maxsize)
        sent, reserve = 0, min(RESERVE, pool.size // 8)
        while True:
            claimed = min(pool.size, prompt.needs(reserve))
            seen = 0
            try:
                async with pool.claim(claimed), closing(self._attempt(prompt, request)) as events:
                    async for event in events:
                        seen += event.type != "prefill"
                        if seen > sent or (event.type == "prefill" and not sent):
                            sent = max(sent, seen)
                            yield event
                return
            except CacheFull:
                if claimed == pool.size:
                    raise
                reserve *= 4

    async def _attempt(self, prompt: LlamaCppPrompt, request: GenerateRequest) -> AsyncIterator[Event]:
        reader = RecordReader(
            dropped=prompt.dropped,
            top_logprobs=request.top_logprobs,
            show_thinking=request.think is not False,
            calls=prompt.calls,
            freeform=prompt.freeform,
        )
        thoughts = ThoughtReader(request)
        async with closing(self._records(request, prompt)) as records:
            async for record in records:
                self._steps += 1
                for event in reader.feed(record):
                    for told in thoughts.feed(event):
                        yield told
        for event in reader.end(await self._context(prompt, reader)):
            for told in thoughts.feed(event):
                yield told

    async def _records(self, request: GenerateRequest, prompt: LlamaCppPrompt) -> AsyncIterator[Json]:
        """Yield llama.cpp's records, from a slot that holds nothing of another owner's."""
        owner, known = request.cache_owner, prompt.tokens or str(prompt.body.get("input_prefix") or "")
        async with self._slots.take(owner, known) as slot:
            media = any(message.media for message in request.messages)
            if self._shared is not None and (self._slots.owned or not owner) and not media:
                records = self._shared.stream(prompt, slot, owner)
            else:
                records = self._client.stream(prompt.path, prompt.body | slot.fields)
            async with closing(records):
                async for record in records:
                    await self._slots.begin(slot, owner, known)
                    yield record

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return one vector for each input. Raises ContextExceeded for a text that is too long and may not be cut."""
        began = time.monotonic_ns()
        frame = await self._text_frame()
        inputs = [frame.fit(await self._embed_tokens(text), request, self._context_length) for text in request.inputs]
        vectors: list[tuple[float, ...]] = []
        with self._work():
            async with self._slots.embedding():
                for group in _groups(inputs):
                    body = {
                        "input": group,
                        "encoding_format": "float",
                        "embd_normalize": 2 if request.normalize else -1,
                    }
                    answer = await self._client.post("/v1/embeddings", body)
                    self._steps += 1
                    entries = sorted(answer["data"], key=lambda entry: entry["index"])
                    vectors += [_shortened(entry["embedding"], request) for entry in entries]
        count = sum(map(len, inputs))
        self._count(count, 0, 0)
        return EmbedResult(embeddings=tuple(vectors), prompt_tokens=count, total_ns=time.monotonic_ns() - began)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return a score for each document. Raises as `document_room`; Unsupported for a model that is no reranker."""
        began = time.monotonic_ns()
        documents, cut = await self._documents(request)
        scores: list[float] = []
        count = 0
        with self._work():
            async with self._slots.embedding():
                for at in range(0, len(documents), GROUP_DOCUMENTS):
                    body = {"query": request.query, "documents": documents[at : at + GROUP_DOCUMENTS]}
                    answer = await self._client.post("/v1/rerank", body)
                    self._steps += 1
                    found = sorted(answer["results"], key=lambda entry: entry["index"])
                    scores += [self._score(float(entry["relevance_score"])) for entry in found]
                    count += int(answer["usage"]["prompt_tokens"])
        self._count(count, 0, 0)
        took = time.monotonic_ns() - began
        return RerankResult(scores=tuple(scores), prompt_tokens=count, truncated=tuple(cut), total_ns=took)

    async def _documents(self, request: RerankRequest) -> tuple[list[str], list[int]]:
        """Return the documents as far as they fit beside the query, and the indices of those that were cut."""
        loaded = self._server
        assert loaded is not None
        around = SPECIAL_TOKENS + (len(await self._prompts.encode(loaded.judge)) if loaded.judge else 0)
        query = len(await self._prompts.encode(request.query, special=False))
        context = min(self._context_length, server.RANK_TOKENS)
        documents, cut = [], []
        for index, text in enumerate(request.documents):
            tokens = await self._prompts.encode(text, special=False)
            self._steps += 1
            keep = document_room(query, around, len(tokens), request, context)
            if keep < len(tokens):
                cut.append(index)
                text = await self.detokenize(Tokens(tokens=tuple(tokens[:keep])))
            documents.append(text)
        return documents, cut

    def _score(self, found: float) -> float:
        """Return llama.cpp's score as a number from 0 to 1: a cross-encoder's is any number."""
        loaded = self._server
        return found if loaded is not None and loaded.probability else 1 / (1 + math.exp(-max(-80.0, found)))

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        if not request.messages:
            return Tokens(tokens=tuple(await self._prompts.encode(request.text or "")))
        conversation = GenerateRequest(
            messages=request.messages, tools=request.tools, template=request.template, think=request.think
        )
        text, tokens = await self._prompts.rendered(conversation)
        return Tokens(tokens=tuple(tokens), prompt=text)

    async def detokenize(self, tokens: Tokens) -> str:
        return str((await self._client.post("/detokenize", {"tokens": list(tokens.tokens)}))["content"])

    def status(self) -> Progress:
        """Return the counters. Never waits for llama.cpp."""
        loaded, context = self._server, self._context_length
        if loaded is None:
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
            stuck=self._prompts.rendering.stuck,
        )

    async def trim(self) -> None:
        """Do nothing: llama.cpp's caches are bounded, and freed only with the model."""

    async def close(self) -> None:
        if self._server is not None:
            await self._client.close()
            await asyncio.to_thread(self._server.close)

    async def _context(self, prompt: LlamaCppPrompt, reader: RecordReader) -> list[int]:
        """Return the ids of prompt and answer. llama.cpp sends a chat answer only as text, which is encoded here."""
        tokens = reader.answer
        if not tokens and reader.text:
            tokens = await self._prompts.encode(reader.text, special=False)
        return [*prompt.tokens, *tokens]

    async def _embed_tokens(self, text: str) -> list[int]:
        tokens = await self._prompts.encode(text)
        self._steps += 1
        return tokens

    async def _text_frame(self) -> TextFrame:
        """Return the special tokens that the model puts around a text; found once."""
        if self._frame is None:
            framed, plain = await self._prompts.encode("a"), await self._prompts.encode("a", special=False)
            self._frame = TextFrame.of(framed, plain)
        return self._frame

    def _count(self, prompt: int, cached: int, generated: int) -> None:
        self._totals["prompt"] += prompt
        self._totals["cached"] += cached
        self._totals["generated"] += generated


async def _heard(request: GenerateRequest) -> GenerateRequest:
    """Return the request with its sounds decoded: llama.cpp knows neither limits nor most formats."""
    if not any(message.audio for message in request.messages):
        return request
    from ollmlx.runner.kit.sounds import with_wavs

    return request.model_copy(update={"messages": await asyncio.to_thread(with_wavs, request.messages)})


def _seeded(request: GenerateRequest) -> GenerateRequest:
    """Return the request with a seed, a random one if it has none."""
    if request.options.seed is not None and request.options.seed >= 0:
        return request
    options = request.options.model_copy(update={"seed": secrets.randbelow(LONGEST_SEED)})
    return request.model_copy(update={"options": options})


def _groups(inputs: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield the texts in order, at most GROUP_TOKENS in a group; a longer text is a group of its own."""
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


def _shortened(vector: list[float], request: EmbedRequest) -> tuple[float, ...]:
    """Return llama.cpp's vector, cut to the request's `dimensions` and scaled to unit length again."""
    if request.dimensions is not None:
        if request.dimensions > len(vector):
            raise InvalidRequest(f"dimensions must be at most {len(vector)} for this model")
        vector = vector[: request.dimensions]
        length = math.sqrt(sum(x * x for x in vector)) or 1.0
        vector = [x / length for x in vector] if request.normalize else vector
    return tuple(vector)


def _work_done() -> int:
    """Return a number that grows while a model is loaded: processor time in hundredths of a second, and disk reads."""
    used: Any = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 100) + int(used.ru_inblock) + int(used.ru_majflt)
