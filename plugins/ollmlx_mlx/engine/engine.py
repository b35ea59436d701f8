"""The engine of the MLX backend: passes the runner's requests to the compute thread and its events back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import mlx.core as mx

from ollmlx.errors import OllmlxError, RunnerFailed, Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit import check_lark, check_schema, one_by_one
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, GenerateRequest, RerankRequest, RerankResult
from ollmlx_mlx.engine.batching.compute import ComputeThread
from ollmlx_mlx.engine.batching.generation import GenerationState, Item
from ollmlx_mlx.engine.batching.grammar import GrammarConstraint, ThinkingBudget
from ollmlx_mlx.engine.batching.prefill import ALONE
from ollmlx_mlx.engine.batching.scheduler import BatchScheduler
from ollmlx_mlx.engine.embedding import embed
from ollmlx_mlx.engine.instance import TEXT, Instance, build
from ollmlx_mlx.engine.load import free_unused
from ollmlx_mlx.engine.pooling import EncodedText, Pooler
from ollmlx_mlx.engine.text.answer import HARMONY_ANSWER
from ollmlx_mlx.engine.text.prompt import EncodedPrompt

T = TypeVar("T")


class MlxEngine:
    """Implements `ollmlx.plugin.contracts.Engine` with continuous batching.

    Prompts are encoded on a thread of their own, one at a time: templates and tokenizers are not thread-safe, and
    neither the event loop nor the compute thread should wait for them.
    """

    parts = TEXT
    """The parts in which this kind of model differs."""

    def __init__(self) -> None:
        self._compute = ComputeThread(tidy=free_unused)
        self._prompts = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._instance: Instance | None = None
        self._config: RunnerConfig | None = None
        self._steps = 0
        self._loaded = 0.0

    async def load(self, config: RunnerConfig) -> None:
        """Load the model on the compute thread. Raises StorageError, OutOfMemory."""
        self._config = config
        self._instance = await asyncio.wrap_future(self._compute.call(lambda: build(config, self._advance, self.parts)))
        self._compute.scheduler = self._instance.scheduler
        self._prompts.submit(self._instance.prompts.warm_up)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield the events of one request. Raises OllmlxError kinds. Closing the iterator cancels it at any phase."""
        instance = self._ready()
        inbox: asyncio.Queue[Sequence[Item]] = asyncio.Queue()
        sink = partial(_deliver, asyncio.get_running_loop(), inbox)
        if request.template not in (None, "", instance.config.model.defaults.template) or request.format:
            await one_by_one(_try_out, instance, request)
        generation = await self._on_prompts(lambda: make_generation(instance, request, sink))
        self._compute.post(lambda: instance.scheduler.submit(generation))
        done = False
        try:
            while not done:
                for item in await inbox.get():
                    done = isinstance(item, (Done, OllmlxError))
                    if isinstance(item, OllmlxError):
                        raise item
                    yield item
        finally:
            if not done:
                generation.cancelled = True
                self._compute.post(lambda: None)  # wake the thread, so that the slot is free at once

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return vectors, computed between rounds of the batch. Raises Unsupported, ContextExceeded."""
        instance = self._ready()
        context = instance.config.context_length
        texts = await self._on_prompts(lambda: instance.texts.encode(request, context))
        return await self._pooled(instance.pooler, texts, request)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return scores, computed between rounds of the batch. Raises Unsupported, ContextExceeded."""
        instance = self._ready()
        judge, context = instance.judge, instance.config.context_length
        if judge is None:
            raise Unsupported("this model was not trained to score documents")
        pairs, cut = await self._on_prompts(lambda: judge.encode(request, context))
        found = await self._pooled(judge, pairs, EmbedRequest(inputs=(), normalize=False))
        scores = tuple(row[0] for row in found.embeddings)
        return RerankResult(scores=scores, prompt_tokens=found.prompt_tokens, truncated=tuple(cut))

    async def _pooled(self, pooler: Pooler, texts: Sequence[EncodedText], request: EmbedRequest) -> EmbedResult:
        instance = self._ready()
        work = embed(
            instance.loaded.model,
            pooler,
            texts,
            request,
            instance.clock,
            lambda: 1.0 if instance.scheduler.busy else ALONE,
        )
        return await asyncio.wrap_future(self._compute.call_sliced(work))

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        instance = self._ready()
        return await self._on_prompts(lambda: instance.prompts.tokenize(request))

    async def detokenize(self, tokens: Tokens) -> str:
        instance = self._ready()
        tokenizer = instance.loaded.tokenizer
        return await self._on_prompts(lambda: str(tokenizer.decode(list(tokens.tokens))))

    def status(self) -> Progress:
        """Return counters. Never waits for a thread."""
        instance = self._instance
        found = Progress(
            engine="mlx",
            state="loading",
            progress=self._steps,
            load_fraction=self._loaded,
            context_length=self._config.context_length if self._config else 0,
            memory_active=mx.get_active_memory(),
            memory_cache=mx.get_cache_memory(),
            memory_peak=mx.get_peak_memory(),
        )
        if instance is None:
            return found
        scheduler = instance.scheduler
        return found.model_copy(
            update={
                "state": "failed" if self._compute.broken else "ready",
                "progress": self._steps + scheduler.progress + self._compute.parts,
                "load_fraction": 1.0,
                "active": scheduler.active,
                "queued": scheduler.queued,
                "parallel": instance.width,
                "pool_tokens": scheduler.pool,
                "pool_used": scheduler.used_now,
                "prompt_cache_bytes": instance.prefixes.nbytes,
                "prompt_cache_entries": len(instance.prefixes),
                "prompt_tokens_total": scheduler.prompt_tokens,
                "cached_tokens_total": scheduler.cached_tokens,
                "generated_tokens_total": scheduler.generated_tokens,
                "device": instance.loaded.device,
                "notes": (*instance.notes, _pool_note(scheduler)),
                "error": self._compute.broken,
            }
        )

    async def trim(self) -> None:
        """Drop the prefix cache and free what nothing uses."""
        instance = self._instance

        def work() -> None:
            if instance is not None:
                instance.prefixes.clear()
            free_unused()

        await asyncio.wrap_future(self._compute.call(work))

    async def close(self) -> None:
        """Save the prefix cache to disk, then end the threads."""
        instance = self._instance
        if instance is not None:
            await asyncio.wrap_future(self._compute.call(instance.save_caches))
        await asyncio.to_thread(self._compute.close)
        self._prompts.shutdown(wait=False, cancel_futures=True)

    def _advance(self, fraction: float) -> None:
        self._steps += 1
        self._loaded = fraction

    def _ready(self) -> Instance:
        if self._instance is None:
            raise RunnerFailed("the model is not loaded")
        if self._compute.broken is not None:
            raise RunnerFailed(f"the engine has failed: {self._compute.broken}")
        return self._instance

    async def _on_prompts(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._prompts, work)


def _deliver(loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[Sequence[Item]], items: Sequence[Item]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has ended: no client waits for these items
        loop.call_soon_threadsafe(inbox.put_nowait, items)


def _pool_note(scheduler: BatchScheduler) -> str:
    """Return how full the pool is, for `ps`."""
    note = f"{scheduler.used_now:,} of {scheduler.pool:,} tokens of the KV pool in use"
    return f"{note}; requests put back for lack of room: {scheduler.put_back}" if scheduler.put_back else note


def make_generation(
    instance: Instance, request: GenerateRequest, sink: Callable[[Sequence[Item]], None]
) -> GenerationState:
    """Return the state of a new request, with its prompt encoded. Raises as `PromptEncoder.build`."""
    prompt = instance.prompts.build(request)
    return GenerationState.of(
        request,
        prompt,
        instance.loaded.tokenizer,
        instance.detokenizers,
        sink,
        vocabulary=instance.vocabulary,
        constraint=_within_budget(instance, prompt, _constraint(instance, request, prompt)),
    )


def _try_out(instance: Instance, request: GenerateRequest) -> None:
    """Try the request's own template and schema. One that reaches a limit then delays no other request's prompt."""
    if request.template:
        instance.prompts.try_template(request)
    if isinstance(request.format, dict):
        check_schema(json.dumps(request.format))
    if request.grammar:
        check_lark(request.grammar)


def _constraint(instance: Instance, request: GenerateRequest, prompt: EncodedPrompt) -> GrammarConstraint | None:
    if isinstance(prompt.forced, str):
        return instance.grammars.freeform(prompt.forced)
    if prompt.forced is not None:
        return instance.grammars.constraint(prompt.forced, free=False)
    if request.format is None:
        return None
    markers, tokenizer = prompt.markers, instance.loaded.tokenizer
    opening: tuple[int, ...] = ()
    if markers.thinks and markers.initial == "normal" and request.think is not False:
        opening = tuple(tokenizer.encode(tokenizer.think_start, add_special_tokens=False))
    return instance.grammars.constraint(request.format, free=markers.initial != "normal", opening=opening)


def _within_budget(
    instance: Instance, prompt: EncodedPrompt, constraint: GrammarConstraint | None
) -> GrammarConstraint | ThinkingBudget | None:
    """Return the constraint of the answer, within the limit of its thought when there is one."""
    if prompt.thinking is None or not prompt.markers.thinks or prompt.forced is not None:
        return constraint
    tokenizer = instance.loaded.tokenizer
    ending = HARMONY_ANSWER if prompt.harmony else tokenizer.think_end
    return ThinkingBudget(
        prompt.thinking,
        tokenizer.encode(ending, add_special_tokens=False),
        instance.vocabulary,
        thinks=prompt.markers.initial == "reasoning",
        inner=constraint,
    )
