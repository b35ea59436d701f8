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
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ollmlx.errors import Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit.answers import answered, fit, prompt_of
from ollmlx.types import EmbedRequest, EmbedResult, Event, GenerateRequest

AHEAD = 256
"""Events the generator may run ahead of the reader."""

Answer = TypeVar("Answer")
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
        """The answer's events, ending with Done."""
        raise NotImplementedError

    def vectors(self, request: EmbedRequest) -> EmbedResult:
        """Embeddings, one vector per input."""
        raise Unsupported("this model does not support embeddings")

    def encode(self, request: TokenizeRequest) -> Tokens:
        """Token ids of a text or conversation."""
        raise Unsupported("this model does not support tokenize")

    def decode(self, tokens: Tokens) -> str:
        """The text of token ids."""
        raise Unsupported("this model does not support detokenize")

    def shrink(self) -> None:
        """Give back memory that is only a cache."""

    def release(self) -> None:
        """Let go of the model."""

    # -- for `stream` ------------------------------------------------------------------------------------------------

    def prompt(self, request: GenerateRequest) -> str:
        """The prompt, or a conversation as plain lines."""
        return prompt_of(request)

    def fit(self, request: GenerateRequest, tokens: Sequence[Token]) -> tuple[Sequence[Token], int]:
        """The tokens that fit the context, and how many were dropped. Raises ContextExceeded when none may be."""
        return fit(tokens, request, self._config.context_length if self._config else 0)

    def answer(
        self, request: GenerateRequest, pieces: Iterable[str], *, prompt_tokens: int, dropped: int = 0
    ) -> Iterator[Event]:
        """The events of an answer whose tokens are `pieces`: stop strings, `num_predict` and Done are seen to."""
        return answered(pieces, request, prompt_tokens=prompt_tokens, dropped=dropped)

    # -- the engine --------------------------------------------------------------------------------------------------

    async def load(self, config: RunnerConfig) -> None:
        self._config = config
        await self._on_thread(lambda: self.prepare(config))
        self._progress += 1

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        hand_over = _HandOver(asyncio.get_running_loop())
        self._waiting += 1
        work = self._thread.submit(self._produce, request, hand_over)
        hand_over.follow(work)
        try:
            while events := await hand_over.take():
                for event in events:
                    yield event
        finally:
            hand_over.cancel()
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
        """Counters only: never waits for the thread."""
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

    def advance(self) -> None:
        """Say that work goes on where no event shows it (a long load, a silent prefill, many vectors)."""
        self._progress += 1

    async def _on_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _produce(self, request: GenerateRequest, hand_over: _HandOver) -> None:
        self._waiting -= 1
        if hand_over.cancelled:
            return
        self._running += 1
        stream = self.stream(request)
        try:
            for event in stream:
                self._count(event)
                if not hand_over.put(event):
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


class _HandOver:
    """Events on their way from the engine's thread to the event loop; bounded, and closed from either side."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = False
        self._loop = loop
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._announced = False
        self._room = threading.Condition()
        self._finished: asyncio.Future[None]

    def put(self, event: Event) -> bool:
        """From the thread: hand one event over; False when nobody wants more."""
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
        """From the loop: the reader left."""
        with self._room:
            self.cancelled = True
            self._room.notify_all()

    def follow(self, work: Future[None]) -> None:
        """On the loop: notice when the thread has finished."""
        self._finished = asyncio.wrap_future(work)
        self._finished.add_done_callback(self._on_finished)

    async def take(self) -> list[Event]:
        """On the loop: what is ready, after waiting for at least one event; empty at the end.

        Raises what the thread raised.
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
            finished.exception()  # nobody may be left to ask for it
        self._wake.set()
