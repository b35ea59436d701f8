"""Tells the thought at the beginning of an answer from the rest, where llama.cpp sends plain text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ollmlx.types import Event, GenerateRequest, Text, Thinking, TokenLogprob

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


class ThoughtSplitter:
    """Splits the pieces of one answer. `begun`: the prompt has opened a thought already."""

    def __init__(self, *, begun: bool = False) -> None:
        self._held = ""
        self._thinks = begun
        self._over = False
        self._trims = False

    def feed(self, piece: str) -> Iterator[tuple[bool, str]]:
        """Yield texts, and of each whether it is of the thought. What may be the beginning of a tag is held back."""
        self._held += piece
        if not self._over and not self._thinks:
            start = self._held.lstrip()
            if OPEN.startswith(start):
                if start != OPEN:
                    return
                self._held, self._thinks = "", True
            elif start.startswith(OPEN):
                self._held, self._thinks = start[len(OPEN) :], True
            else:
                self._over = True
        if self._thinks and not self._over:
            yield from self._thought()
        if self._trims:
            self._held = self._held.lstrip("\n")
        if self._over and self._held:
            self._trims = False
            yield False, self._held
            self._held = ""

    def end(self) -> Iterator[tuple[bool, str]]:
        """Yield what was held back."""
        if self._held:
            yield self._thinks and not self._over, self._held
        self._held = ""

    def _thought(self) -> Iterator[tuple[bool, str]]:
        thought, closed, rest = self._held.partition(CLOSE)
        if closed:
            if thought:
                yield True, thought
            self._held, self._over, self._thinks, self._trims = rest, True, False, True
            return
        kept = next((size for size in range(len(CLOSE) - 1, 0, -1) if thought.endswith(CLOSE[:size])), 0)
        if len(thought) > kept:
            yield True, thought[: len(thought) - kept]
        self._held = thought[len(thought) - kept :]


class ThoughtReader:
    """Makes Thinking events of the text that is a thought, for a request whose own template writes thoughts."""

    def __init__(self, request: GenerateRequest) -> None:
        template = request.template or ""
        self._show = request.think is not False
        self._splitter: ThoughtSplitter | None = None
        if request.messages and OPEN in template:
            self._splitter = ThoughtSplitter(begun=template.rstrip().endswith(OPEN))
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def feed(self, event: Event) -> Iterator[Event]:
        """Yield the events that an event becomes."""
        if self._splitter is None:
            yield event
        elif isinstance(event, Text):
            self._logprobs += event.logprobs
            yield from self._told(self._splitter.feed(event.text))
        else:
            if event.type == "done":
                yield from self._told(self._splitter.end())
            yield event

    def _told(self, pieces: Iterator[tuple[bool, str]]) -> Iterator[Event]:
        for thought, text in pieces:
            logprobs, self._logprobs = self._logprobs, ()
            if not thought:
                yield Text(text=text, logprobs=logprobs)
            elif self._show:
                yield Thinking(text=text, logprobs=logprobs)
