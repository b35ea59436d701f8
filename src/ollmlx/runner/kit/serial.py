"""An engine for authors who want to write a plain generator function.

class Shout(SerialEngine):
    def prepare(self, config):              # load the model; runs on the engine's thread
        self.model = open_model(config.model.path)

    def stream(self, request):              # a generator; runs on the same thread, one request at a time
        tokens, dropped = self.fit(request, self.model.tokens(self.prompt(request)))
        yield from self.answer(request, self.model.pieces(tokens), prompt_tokens=len(tokens), dropped=dropped)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ollmlx.errors import Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit.answers import StopFilter
from ollmlx.runner.kit.prompts import fit_tokens
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, GenerateRequest, Text

AHEAD = 256
"""Events that the generator may run ahead of the reader."""

Result = TypeVar("Result")
Token = TypeVar("Token")


class SerialEngine:
    """Runs `prepare` and then one `stream` after the other on one thread. A request can be cancelled between events.

    Override `prepare` and `stream`; and, where the model can, `vectors`, `encode`, `decode`, `shrink` and `release`.
    They may block: status is answered from the event loop. Raise kinds of `ollmlx.errors` to explain a failure.
    """

    name = "serial"

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._config: RunnerConfig | None = None
        self._progress = 0
        self._waiting = 0
        self._running = 0
        self._totals = {"prompt": 0, "cached": 0, "generated": 0}

    def prepare(self, config: RunnerConfig) -> None:
        """Load the model."""

    def stream(self, request: GenerateRequest) -> Iterator[Event]:
        """Yield the answer's events, ending with Done."""
        raise NotImplementedError

    def vectors(self, request: EmbedRequest) -> EmbedResult:
        """Return embeddings, one vector for each input."""
        raise Unsupported("this model does not support embeddings")

    def encode(self, request: TokenizeRequest) -> Tokens:
        """Return the token ids of a text or conversation."""
        raise Unsupported("this model does not support tokenize")

    def decode(self, tokens: Tokens) -> str:
        """Return the text of token ids."""
        raise Unsupported("this model does not support detokenize")

    def shrink(self) -> None:
        """Free memory that is only a cache."""

    def release(self) -> None:
        """Free the model."""

    # -- for `stream` ------------------------------------------------------------------------------------------------

    def prompt(self, request: GenerateRequest) -> str:
        """Return the prompt, or the conversation as one line a message."""
        if request.prompt is not None:
            return request.prompt
        return "\n".join(f"{message.role}: {message.content}" for message in request.messages)

    def fit(self, request: GenerateRequest, tokens: Sequence[Token]) -> tuple[Sequence[Token], int]:
        """Return the newest tokens that fit the context, and how many were dropped.

        Raises ContextExceeded when the prompt is too long and the request does not allow truncation.
        """
        return fit_tokens(tokens, request, self._config.context_length if self._config else 0)

    def answer(
        self, request: GenerateRequest, pieces: Iterable[str], *, prompt_tokens: int, dropped: int = 0
    ) -> Iterator[Event]:
        """Yield the events of an answer whose tokens are `pieces`, ending with Done.

        Stop strings and `num_predict` end it; no piece is taken after that.
        """
        began = time.monotonic_ns()
        limit = request.options.num_predict
        stops = StopFilter(request.options.stop)
        count = 0
        for piece in pieces if limit != 0 else ():
            count += 1
            if text := stops.feed(piece):
                yield Text(text=text)
            if stops.hit is not None or count == limit:
                break
        if held := stops.flush():
            yield Text(text=held)
        spent = time.monotonic_ns() - began
        yield Done(
            reason="length" if stops.hit is None and count == limit else "stop",
            prompt_tokens=prompt_tokens,
            generated_tokens=count,
            decode_ns=spent,
            total_ns=spent,
            dropped=dropped,
            stop=stops.hit,
        )

    def advance(self) -> None:
        """Count progress that no event shows, such as a long load, a prefill without events, many vectors."""
        self._progress += 1

    # -- the engine --------------------------------------------------------------------------------------------------

    async def load(self, config: RunnerConfig) -> None:
        self._config = config
        await self._on_thread(lambda: self.prepare(config))
        self._progress += 1

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        events = _EventQueue(asyncio.get_running_loop())
        self._waiting += 1
        work = self._thread.submit(self._produce, request, events)
        events.follow(work)
        try:
            while ready := await events.take():
                for event in ready:
                    yield event
        finally:
            events.cancel()
            if work.cancel():
                self._waiting -= 1

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        result = await self._on_thread(lambda: self.vectors(request))
        self._progress += 1
        return result

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        return await self._on_thread(lambda: self.encode(request))

    async def detokenize(self, tokens: Tokens) -> str:
        return await self._on_thread(lambda: self.decode(tokens))

    def status(self) -> Progress:
        """Return the counters. Never waits for the thread."""
        return Progress(
            engine=self.name,
            state="ready",
            progress=self._progress,
            active=self._running,
            queued=self._waiting,
            context_length=self._config.context_length if self._config else 0,
            prompt_tokens_total=self._totals["prompt"],
            cached_tokens_total=self._totals["cached"],
            generated_tokens_total=self._totals["generated"],
        )

    async def trim(self) -> None:
        await self._on_thread(self.shrink)

    async def close(self) -> None:
        await self._on_thread(self.release)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _produce(self, request: GenerateRequest, events: _EventQueue) -> None:
        """Run `stream` on the engine's thread, until it ends or the request is cancelled."""
        self._waiting -= 1
        if events.cancelled:
            return
        self._running += 1
        stream = self.stream(request)
        try:
            for event in stream:
                self._count(event)
                if not events.put(event):
                    return
        finally:
            self._running -= 1
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _count(self, event: Event) -> None:
        self._progress += 1
        if event.type == "done":
            self._totals["prompt"] += event.prompt_tokens
            self._totals["cached"] += event.cached_tokens
            self._totals["generated"] += event.generated_tokens


class _EventQueue:
    """A bounded queue of events from the engine's thread to the event loop; either side can end it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = False
        self._loop = loop
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._announced = False
        self._room = threading.Condition()
        self._finished: asyncio.Future[None]

    def put(self, event: Event) -> bool:
        """Add an event, after waiting for room. Called on the thread. Returns False after `cancel`."""
        with self._room:
            while len(self._events) >= AHEAD and not self.cancelled:
                self._room.wait()
            if self.cancelled:
                return False
            self._events.append(event)
            announce, self._announced = not self._announced, True
        if announce:
            self._loop.call_soon_threadsafe(self._wake.set)
        return True

    def cancel(self) -> None:
        """End the queue because the request was closed. Called on the event loop."""
        with self._room:
            self.cancelled = True
            self._room.notify_all()

    def follow(self, work: Future[None]) -> None:
        """End the queue when the thread has finished this work. Called on the event loop."""
        self._finished = asyncio.wrap_future(work)
        self._finished.add_done_callback(self._on_finished)

    async def take(self) -> list[Event]:
        """Return the events that are ready, after waiting for at least one; empty at the end.

        Raises the exception that `stream` raised.
        """
        while True:
            with self._room:
                ready = list(self._events)
                self._events.clear()
                self._announced = False
                self._wake.clear()
                self._room.notify_all()
            if ready:
                return ready
            if self._finished.done():
                self._finished.result()
                return []
            await self._wake.wait()

    def _on_finished(self, finished: asyncio.Future[None]) -> None:
        if not finished.cancelled():
            finished.exception()  # Mark it as retrieved: after `cancel` no one calls `take` again.
        self._wake.set()
