"""Following a generation, or vectors, on the way to the client: figures for the log, failures as exceptions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

from ollmlx.errors import RunnerFailed, from_kind
from ollmlx.model.events import closing
from ollmlx.types import Admitted, Done, EmbedResult, Event, Failed, Prefill, Text
from ollmlx.web.context import current


async def tracked(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """The same events, noted in the exchange. `Failed`, and an end without `Done`, are raised as OllmlxError."""
    exchange = current()
    ended = False
    async with closing(events):
        async for event in events:
            if type(event) is Text and exchange.first_ns:
                yield event  # the token path
                continue
            match event:
                case Failed():
                    raise from_kind(event.kind, event.message, code=event.code)
                case Admitted() | Prefill():
                    exchange.note(event)
                case Done():
                    ended = True
                    exchange.note(event)
                case _:
                    exchange.note_first()
            yield event
    if not ended:
        raise RunnerFailed("the answer ended without a final record", code="RUN002")


async def embedded(work: Awaitable[EmbedResult]) -> EmbedResult:
    """The same vectors, noted in the exchange."""
    result = await work
    current().note(result)
    return result
