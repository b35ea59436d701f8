"""What every answer needs, whatever makes its pieces: stop strings, the length limit, the account at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from ollmlx.errors import ContextExceeded
from ollmlx.types import Done, Event, GenerateRequest, Text

Token = TypeVar("Token")


def prompt_of(request: GenerateRequest) -> str:
    """The prompt, or a conversation as plain lines, for engines without a chat template."""
    if request.prompt is not None:
        return request.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)


def fit(tokens: Sequence[Token], request: GenerateRequest, context_length: int) -> tuple[Sequence[Token], int]:
    """The newest tokens that fit the context, and how many were dropped. Raises ContextExceeded when none may be."""
    over = len(tokens) - context_length
    if over <= 0:
        return tokens, 0
    if not request.truncate:
        raise ContextExceeded(f"the prompt is {len(tokens)} tokens, the context is {context_length}")
    return tokens[over:], over


def answered(
    pieces: Iterable[str], request: GenerateRequest, *, prompt_tokens: int, dropped: int = 0
) -> Iterator[Event]:
    """The events of an answer whose tokens are `pieces`, which is asked for no more than is needed."""
    began = time.monotonic_ns()
    options = request.options
    count, held = 0, ""
    reason: Literal["stop", "length"] = "stop"
    hit: str | None = None
    if options.num_predict != 0:
        for piece in pieces:
            count += 1
            held += piece
            at, hit = _first(held, options.stop)
            ready = at if hit else len(held) - _half_a_stop(held, options.stop)
            if ready:
                yield Text(text=held[:ready])
            held = "" if hit else held[ready:]
            if hit or count == options.num_predict:
                break
    if not hit and count == options.num_predict:
        reason = "length"
    if held:
        yield Text(text=held)
    spent = time.monotonic_ns() - began
    yield Done(
        reason=reason,
        prompt_tokens=prompt_tokens,
        generated_tokens=count,
        decode_ns=spent,
        total_ns=spent,
        dropped=dropped,
        stop=hit,
    )


def _first(text: str, stops: tuple[str, ...]) -> tuple[int, str | None]:
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    return min(found) if found else (-1, None)


def _half_a_stop(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of the text that may become a stop string."""
    lengths = (n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n]))
    return max(lengths, default=0)
