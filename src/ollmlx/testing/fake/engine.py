"""An engine without weights. It behaves well unless its script says otherwise."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit import context_exceeded, document_room, fit_tokens
from ollmlx.runner.startup import first_fault
from ollmlx.testing.fake import faults
from ollmlx.testing.fake.play import Play
from ollmlx.testing.fake.reply import FakeReply, conversation, decode, encode, reply_of, reply_to, wrong_token
from ollmlx.testing.fake.script import Script, directed
from ollmlx.types import (
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    Prefill,
    RerankRequest,
    RerankResult,
    Segment,
    SpeechRequest,
    Spoken,
    TranscribeRequest,
)

YIELD_EVERY = 64
"""At full speed, the tokens after which other tasks may run."""


class FakeEngine:
    """Answers by echo or script. Serves `parallel` requests at once; the others wait here, as in a batch engine."""

    def __init__(self) -> None:
        self._script = Script()
        self._ready = False
        self._config: RunnerConfig | None = None
        self._progress = 0
        self._steps = 0
        self._active = 0
        self._queued = 0
        self._slots = asyncio.Semaphore(1)
        self._parallel = 1
        self._totals = [0, 0, 0]
        self._prompts: list[tuple[int, ...]] = []
        self._spawn = 1
        self._answers = 0
        self._play: Play | None = None

    async def load(self, config: RunnerConfig) -> None:
        """Follow the script's load part. `config.engine_options` are the fields of a `Script`."""
        try:
            script = Script.model_validate(config.engine_options)
        except ValidationError as error:
            raise InvalidRequest(f"fake: engine_options: {first_fault(error)}") from None
        self._config, self._script = config, script
        self._play = Play(Path(script.play)) if script.play else None
        self._parallel = config.parallel or script.parallel
        self._slots = asyncio.Semaphore(self._parallel)
        self._spawn = _log_spawn(script.spawn_log)
        if script.ignore_term:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        faults.start_children(script.children, escaped=False)
        faults.start_children(script.escaped_children, escaped=True)
        if script.memory_mib:
            faults.SUDDEN["memory"](str(script.memory_mib))
        for self._steps in range(1, script.load_steps + 1):
            sys.stderr.write(f"fake: load step {self._steps} of {script.load_steps}\n")
            self._progress += 1
            await asyncio.sleep(script.load_ms / 1000)
        await self._strike(self._planned(script.load_fault), "start")
        self._ready = True

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield prefill, thinking, text or a tool call, and done, with the script's fault at its place."""
        script, prompt, last = self._directed(request)
        if script.wrong_answers == "seed" and request.options.temperature == 0:
            script = script.model_copy(update={"wrong_answers": ""})  # greedy answers need no seed
        fitting, dropped = fit_tokens(request.context + encode(prompt), request, self._context_length)
        ids = tuple(fitting)
        self._queued += 1
        try:
            await self._slots.acquire()
        finally:
            self._queued -= 1
        self._active += 1
        done = False
        try:
            reply = reply_to(request, script, last) if self._play is None else self._played(self._play, request)
            async with aclosing(self._answer(script, reply, ids, dropped)) as answer:
                async for event in answer:
                    self._progress += 1
                    done = isinstance(event, Done)
                    yield event
        finally:
            self._active -= 1
            if done or script.wrong_answers != "cancel":
                self._slots.release()

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return unit vectors that depend on the text alone."""
        vectors, total = [], 0
        async with self._slots:
            for text in request.inputs:
                vector, count = await self._embedded(text, request)
                vectors.append(vector)
                total += count
        return EmbedResult(embeddings=tuple(vectors), prompt_tokens=total)

    async def _embedded(self, text: str, request: EmbedRequest) -> tuple[tuple[float, ...], int]:
        script, plain = directed(self._script, text)
        await self._strike(self._planned(script.fault), "start")
        for _ in range(script.prefill if script.prefill_ms else 0):
            await asyncio.sleep(script.prefill_ms / 1000)
            self._progress += 1
        ids = encode(plain)
        if len(ids) > self._context_length:
            if not request.truncate:
                raise context_exceeded(len(ids), self._context_length)
            ids = ids[: self._context_length]
        self._progress += 1
        return _vector(decode(ids), script.dimensions, request), len(ids)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score documents by the share of the query's words that they have."""
        words, scores, cut, total = set(request.query.split()), [], [], 0
        limit = min(self._context_length, request.options.num_ctx or self._context_length)
        for index, text in enumerate(request.documents):
            ids, query = encode(text), encode(request.query)
            keep = document_room(len(query), 0, len(ids), request, limit)
            cut += [index] if keep < len(ids) else []
            scores.append(len(words & set(decode(ids[:keep]).split())) / len(words or {""}))
            total += len(query) + keep
            self._progress += 1
        return RerankResult(scores=tuple(scores), prompt_tokens=total, truncated=tuple(cut))

    async def transcribe(self, request: TranscribeRequest) -> AsyncIterator[Event]:
        """Hear the words that stand in the file, one in each second. Without a script: no fault strikes here."""
        words = request.audio.read_text("utf-8", "replace").split() if request.audio else []
        for second, word in enumerate(words):
            self._progress += 1
            yield Segment(text=f" {word}", start=second, end=second + 1, tokens=tuple(encode(word)))
        yield Done(generated_tokens=len(words), seconds=len(words), language=request.language or "en")

    async def speak(self, request: SpeechRequest) -> AsyncIterator[Event]:
        """Speak a file that holds the words of the text, one after the other."""
        for word in request.text.split():
            self._progress += 1
            yield Spoken(data=f"{word} ".encode())
        yield Done(prompt_tokens=len(request.text.split()), seconds=1.0)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        text = request.text if request.text is not None else conversation(request.messages, request.tools)
        return Tokens(tokens=encode(text), prompt=text if request.messages else None)

    async def detokenize(self, tokens: Tokens) -> str:
        return decode(tokens.tokens)

    def status(self) -> Progress:
        prompt, cached, generated = self._totals
        return Progress(
            protocol=self._script.protocol,
            engine="fake",
            state="ready" if self._ready else "loading",
            progress=self._progress,
            load_fraction=1.0 if self._ready else self._steps / max(self._script.load_steps, 1),
            active=self._active,
            queued=self._queued,
            parallel=self._parallel,
            context_length=self._context_length,
            memory_active=sum(len(block) for block in faults.BALLAST),
            prompt_cache_entries=len(self._prompts),
            prompt_tokens_total=prompt,
            cached_tokens_total=cached,
            generated_tokens_total=generated,
            device="fake",
        )

    async def trim(self) -> None:
        self._prompts.clear()
        faults.BALLAST.clear()

    async def close(self) -> None:
        await self._strike(self._planned(self._script.close_fault), "start")

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _context_length(self) -> int:
        return self._config.context_length if self._config else 0

    def _directed(self, request: GenerateRequest) -> tuple[Script, str, str]:
        if request.prompt is not None:
            script, plain = directed(self._script, request.prompt)
            return script, plain, plain
        last = next((m.content for m in reversed(request.messages) if m.role in ("user", "tool")), "")
        script, plain = directed(self._script, last)
        return script, conversation(request.messages, request.tools), plain

    def _played(self, play: Play, request: GenerateRequest) -> FakeReply:
        """Return the next answer of the play."""
        return reply_of(play.step(request), self._answers)

    async def _answer(
        self, script: Script, reply: FakeReply, ids: tuple[int, ...], dropped: int
    ) -> AsyncGenerator[Event, None]:
        planned = self._planned(script.fault)
        for line in await self._strike(planned, "start"):
            yield line
        began = time.monotonic_ns()
        self._answers += 1
        cached = self._cached(script, ids)
        for step in range(script.prefill):
            if script.prefill_ms:
                await asyncio.sleep(script.prefill_ms / 1000)
            done = cached + (len(ids) - cached) * (step + 1) // script.prefill
            yield Prefill(done=done, total=len(ids), cached=cached, dropped=dropped)
            if step == 0:
                for line in await self._strike(planned, "prefill"):
                    yield line
        prefilled = time.monotonic_ns()
        for count, event in enumerate(reply.events()):
            if planned is not None:
                for line in await self._strike(planned, str(count)):
                    yield line
            if script.rate:
                await asyncio.sleep(1 / script.rate)
            elif count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            yield wrong_token(event) if self._answers_wrong(script, cached) else event
        for line in await self._strike(planned, str(reply.steps)):
            yield line
        yield self._done(reply, ids, cached, dropped, (began, prefilled, time.monotonic_ns()))

    def _done(
        self, reply: FakeReply, ids: tuple[int, ...], cached: int, dropped: int, times: tuple[int, int, int]
    ) -> Done:
        began, prefilled, now = times
        for index, count in enumerate((len(ids), cached, len(reply.ids))):
            self._totals[index] += count
        return Done(
            reason=reply.reason,
            prompt_tokens=len(ids),
            cached_tokens=cached,
            generated_tokens=len(reply.ids),
            prefill_ns=prefilled - began,
            decode_ns=now - prefilled,
            total_ns=now - began,
            dropped=dropped,
            stop=reply.stop,
            context=ids + reply.ids,
        )

    def _answers_wrong(self, script: Script, cached: int) -> bool:
        """True when tokens are wrong: with cached ones, beside other requests, or in every second answer."""
        return (
            (script.wrong_answers == "cache" and cached > 0)
            or (script.wrong_answers == "batch" and self._active > 1)
            or (script.wrong_answers in ("repeat", "seed") and self._answers % 2 == 0)
        )

    def _cached(self, script: Script, ids: tuple[int, ...]) -> int:
        if not script.cache:
            return 0
        cached = max((_common_prefix(ids, known) for known in self._prompts), default=0)
        self._prompts = [*self._prompts[-7:], ids]
        return min(cached, max(len(ids) - 1, 0))

    def _planned(self, fault: str | None) -> faults.PlannedFault | None:
        limit = self._script.fault_spawns
        return None if fault is None or (limit is not None and self._spawn > limit) else faults.PlannedFault(fault)

    async def _strike(self, planned: faults.PlannedFault | None, where: str) -> tuple[Any, ...]:
        return await planned.strike() if planned is not None and planned.where == where else ()


def _log_spawn(path: str | None) -> int:
    """Add this process to the log and return how many processes it lists."""
    if path is None:
        return 1
    with Path(path).open("a", encoding="ascii") as log:
        log.write(f"{os.getpid()}\n")
    return len(Path(path).read_text(encoding="ascii").splitlines())


def _vector(text: str, dimensions: int, request: EmbedRequest) -> tuple[float, ...]:
    stream = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = [int.from_bytes(stream[i : i + 2], "big") / 32768 - 1 for i in range(0, len(stream), 2)]
    raw = raw[: request.dimensions or dimensions]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return tuple(x / length for x in raw)


def _common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
