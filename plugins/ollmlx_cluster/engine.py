"""The engine of rank 0: one request at a time, each pass made by the whole group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, Final, NoReturn

import mlx.core as mx

from ollmlx import SerialEngine, closing
from ollmlx.errors import RunnerFailed, Unsupported
from ollmlx.protocol import ExitCode, Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.types import Event, GenerateRequest
from ollmlx_cluster.messages import WAKING, LauncherConnection
from ollmlx_cluster.shard import STOP, TOKEN, Collectives, ModelShard
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.batching.sampling import Penalizer, Sampler
from ollmlx_mlx.engine.kv_cache import make_layers
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.text.prompt import PromptEncoder

PATIENCE: Final = 5.0
"""Seconds to wait for the launcher to end this process: it reports the rank that was lost."""
IDLE: Final = 5.0
"""Seconds without a request after which the ranks sleep: a rank that waits inside MLX keeps a core busy."""
CLOSING: Final = 2.0
"""Seconds to tell the other ranks to end. After that, the end of this process ends them."""


class ClusterEngine(SerialEngine):
    """Leads a group. `rank.main` sets `collectives` and `launcher` before the runner makes the engine."""

    name = "mlx-cluster"
    collectives: Collectives
    launcher: ClassVar[LauncherConnection | None] = None
    """The connection to the launcher, which can wake the other ranks. None: they cannot be woken and do not sleep."""
    _ranks_here = 1

    def __init__(self) -> None:
        super().__init__()
        self._asleep = False
        self._sleep_timer: asyncio.TimerHandle | None = None

    def prepare(self, config: RunnerConfig) -> None:
        self._ranks_here = int(config.engine_options.get("local_ranks", 1))
        self._shard = ModelShard.load(config, self.collectives, str(config.engine_options.get("mode", "tensor")))
        if min(self.collectives.gather(1)) < 1:  # fails unless every rank has loaded
            raise RunnerFailed("a rank of the group could not load the model", code="RUN002")
        tokenizer = self._shard.tokenizer
        self._prompts = PromptEncoder(tokenizer, config.model.name.short, config.context_length)
        self._detokenizers = DetokenizerFactory(tokenizer)
        self._notes = tuple(str(note) for note in config.engine_options.get("notes", ()))

    async def load(self, config: RunnerConfig) -> None:
        await super().load(config)
        self._sleep_later()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        try:
            async with closing(super().generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._sleep_later()

    def _sleep_later(self) -> None:
        """Let the ranks sleep after `IDLE` seconds without a request."""
        if self._sleep_timer is not None:
            self._sleep_timer.cancel()
        if self.launcher is not None:
            self._sleep_timer = asyncio.get_running_loop().call_later(IDLE, self._sleep_unless_busy)

    def _sleep_unless_busy(self) -> None:
        if not (self._running or self._waiting):
            self._thread.submit(self._sleep)

    def _sleep(self) -> None:
        """Let the other ranks sleep. On the engine's thread, like all collective calls."""
        if self._asleep:
            return
        try:
            self.collectives.broadcast_json({"sleep": True})
        except RuntimeError as error:
            _end_group(error)
        self._asleep = True

    def _wake(self) -> None:
        if self._asleep and self.launcher is not None:
            self.launcher.send(WAKING)
            self._asleep = False

    def stream(self, request: GenerateRequest) -> Iterator[Event]:
        if request.format is not None or request.top_logprobs is not None:
            raise Unsupported("a model on a cluster has no structured output and no logprobs")
        if request.max_thinking_tokens is not None or (request.tools and request.tool_choice not in ("auto", "none")):
            raise Unsupported("a model on a cluster cannot be held to a budget or to a tool call")
        request, tokenizer = request.model_copy(update={"shift": False}), self._shard.tokenizer
        prompt = self._prompts.build(request)
        events: list[Any] = []
        row = GenerationState.of(
            request, prompt, tokenizer, self._detokenizers, events.extend, vocabulary=len(tokenizer)
        )
        try:
            self._wake()
            self.collectives.broadcast_json({"tokens": row.tokens})
            for _ in self._passes(row):
                row.flush()
                yield from events
                events.clear()
            self.collectives.broadcast(STOP)
        except RuntimeError as error:
            _end_group(error)
        except BaseException:
            self.collectives.broadcast(STOP)
            raise

    def _passes(self, row: GenerationState) -> Iterator[None]:
        """Compute the prompt and then the answer, pass by pass. Yields when `row` may have events."""
        cache = make_layers(self._shard.model)
        for done, computed in self._shard.prefill(row.tokens, cache):
            row.fed, logits = done, computed
            row.report_prefill()
            yield
        sampler = Sampler([row.options], logits.shape[-1])
        penalizer = Penalizer([row.penalties], [row.tokens[:-1]])
        row.finished = "length" if row.limit <= 0 else None
        while row.finished is None:
            chosen: Any = sampler(penalizer(logits, mx.array(row.tokens[-1:])), [row.draw()]).item()
            row.accept(chosen)
            yield
            if row.finished is None:
                self.collectives.broadcast(TOKEN + chosen)
                logits = self._shard.forward([chosen], cache)
                row.fed += 1
                self.advance()
        row.end()
        yield

    def encode(self, request: TokenizeRequest) -> Tokens:
        return self._prompts.tokenize(request)

    def decode(self, tokens: Tokens) -> str:
        return self._detokenizers.decode(tokens.tokens)

    def status(self) -> Progress:
        shard = getattr(self, "_shard", None)
        about = {"device": shard.device if shard else "", "notes": getattr(self, "_notes", ())}
        # The daemon measures the launcher only: report the memory of all ranks here, which hold about the same.
        memory = {
            "memory_active": mx.get_active_memory() * self._ranks_here,
            "memory_peak": mx.get_peak_memory() * self._ranks_here,
        }
        return super().status().model_copy(update={**about, **memory})

    def shrink(self) -> None:
        mx.clear_cache()

    def release(self) -> None:
        self._wake()
        self.collectives.broadcast_json({"close": True})

    async def close(self) -> None:
        if self._sleep_timer is not None:
            self._sleep_timer.cancel()
        # After the loss of a rank the thread may hang in a pass for ever.
        with contextlib.suppress(TimeoutError, RuntimeError):
            await asyncio.wait_for(super().close(), CLOSING)


def _end_group(error: RuntimeError) -> NoReturn:
    """End the process: a rank is lost, or a pass failed here, so that the ranks are not in step any more.

    The daemon sees a failed runner, and repeats requests that were not answered yet on a new one.
    """
    time.sleep(PATIENCE)
    os.write(2, f"rank 0: {error}\n".encode("utf-8", "replace"))
    os._exit(ExitCode.INTERNAL)
