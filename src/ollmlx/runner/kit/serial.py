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
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ollmlx.errors import Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.kit.answers import StopFilter
from ollmlx.runner.kit.prompts import fit_tokens
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, GenerateRequest, Text

AHEAD = 256
"""Events that the generator may run ahead of the reader."""
PULL_SECONDS = 0.01
"""Seconds after which the events so far are handed to the reader."""

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
        self._turn = asyncio.Lock()
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

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        return self.serve(lambda: self.stream(request))

    async def serve(self, make: Callable[[], Iterator[Event]]) -> AsyncIterator[Event]:
        """Run a generator on the thread when its turn comes, and yield its events: for other verbs than `generate`."""
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        stream, loop, ended = self._on_first_pull(make), asyncio.get_running_loop(), False
        try:
            while not ended:
                events, ended = await self._on_thread(lambda: self._pull(stream))
                for event in events:
                    if isinstance(event, Exception):
                        raise event
                    yield event
        finally:
            if ended:
                self._leave()
            else:  # the thread may still be at work for this request
                closed = self._thread.submit(stream.close)
                closed.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))

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

    def _on_first_pull(self, make: Callable[[], Iterator[Event]]) -> Generator[Event]:
        yield from make()  # also one that is no generator is called on the thread

    def _pull(self, stream: Iterator[Event]) -> tuple[list[Event | Exception], bool]:
        """Take events on the thread, for a moment. Returns them, its exception last, and True if there are no more."""
        events: list[Event | Exception] = []
        until = time.monotonic() + PULL_SECONDS
        try:
            for event in stream:
                self._count(event)
                events.append(event)
                if len(events) == AHEAD or time.monotonic() >= until:
                    return events, False
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            events.append(error)
        return events, True

    def _leave(self) -> None:
        self._running -= 1
        self._turn.release()

    def _count(self, event: Event) -> None:
        self._progress += 1
        if event.type == "done":
            self._totals["prompt"] += event.prompt_tokens
            self._totals["cached"] += event.cached_tokens
            self._totals["generated"] += event.generated_tokens
