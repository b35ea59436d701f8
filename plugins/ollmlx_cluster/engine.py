"""The engine of rank 0: one request at a time, each pass made by the whole group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar, Final, NoReturn

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from ollmlx import SerialEngine, closing
from ollmlx.errors import RunnerFailed, Unsupported
from ollmlx.protocol import ExitCode, Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.types import Done, Event, GenerateRequest, Options, Prefill
from ollmlx_cluster.handover import WAKING, LauncherConnection
from ollmlx_cluster.shard import STOP, Collectives, ModelShard, token_value
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.text.prompt import EncodedPrompt, PromptEncoder
from ollmlx_mlx.engine.text.template import ChatTemplate

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
        template = ChatTemplate(tokenizer, config.model.name.short, config.model.defaults.template)
        self._prompts = PromptEncoder(tokenizer, template, config.model.name.short, config.context_length)
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
        begun = time.monotonic_ns()
        prompt = self._prompts.build(request)
        if request.options.seed >= 0:
            mx.random.seed(request.options.seed)
        else:
            mx.random.seed(secrets.randbits(63))
        try:
            self._wake()
            self.collectives.broadcast_json({"tokens": list(prompt.tokens)})
            yield from self._answer(request, prompt, begun)
            self.collectives.broadcast(STOP)
        except RuntimeError as error:
            _end_group(error)
        except BaseException:
            self.collectives.broadcast(STOP)
            raise

    def _answer(self, request: GenerateRequest, prompt: EncodedPrompt, begun: int) -> Iterator[Event]:
        cache = self._shard.new_cache()
        logits: mx.array | None = None
        for done, found in self._shard.prefill(prompt.tokens, cache):
            logits = found
            yield Prefill(done=done, total=len(prompt.tokens), dropped=prompt.dropped)
        assert logits is not None
        prefilled = time.monotonic_ns()
        answer = prompt.parser(request, self._shard.tokenizer, self._detokenizers)
        sampler, processors = _sampling(request.options)
        made: list[int] = []
        limit = prompt.context - len(prompt.tokens)
        if request.options.num_predict >= 0:
            limit = min(limit, request.options.num_predict)
        reason = "length"
        while len(made) < limit:
            token = _choose(logits, sampler, processors, [*prompt.tokens, *made])
            if token in self._shard.tokenizer.eos_token_ids:
                reason = "stop"
                break
            made.append(token)
            yield from answer.add(token)
            if answer.finished or answer.runaway:
                reason = "stop"
                break
            if len(made) < limit:
                self.collectives.broadcast(token_value(token))
                logits = self._shard.forward([token], cache)
                self.advance()
        yield from answer.end()
        ended = time.monotonic_ns()
        yield Done(
            reason="stop" if reason == "stop" else "length",
            prompt_tokens=len(prompt.tokens),
            generated_tokens=len(made),
            prefill_ns=prefilled - begun,
            decode_ns=ended - prefilled,
            total_ns=ended - begun,
            dropped=prompt.dropped,
            stop=answer.stop,
            context=(*prompt.tokens, *made),
        )

    def encode(self, request: TokenizeRequest) -> Tokens:
        if request.text is not None:
            return Tokens(tokens=tuple(self._prompts.encode_text(request.text)))
        asked = GenerateRequest(messages=request.messages, tools=request.tools, template=request.template)
        return Tokens(tokens=tuple(self._prompts.encode_messages(request.messages, asked)))

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


def _sampling(options: Options) -> tuple[Any, list[Any]]:
    sampler = make_sampler(temp=options.temperature, top_p=options.top_p, min_p=options.min_p, top_k=options.top_k)
    last = options.repeat_last_n if options.repeat_last_n >= 0 else 1 << 20
    processors = make_logits_processors(
        logit_bias=dict(options.logit_bias) or None,
        repetition_penalty=options.repeat_penalty if options.repeat_penalty != 1 and last else None,
        repetition_context_size=last,
        presence_penalty=options.presence_penalty or None,
        presence_context_size=last,
        frequency_penalty=options.frequency_penalty or None,
        frequency_context_size=last,
    )
    return sampler, processors


def _choose(logits: mx.array, sampler: Any, processors: list[Any], so_far: list[int]) -> int:
    logits = logits.astype(mx.float32)
    if processors:
        history = mx.array(so_far)
        for process in processors:
            logits = process(history, logits)
    return int(sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True)).item())
