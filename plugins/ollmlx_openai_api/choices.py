"""Several choices for one request: the same prompt generated `n` times side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from ollmlx import closing
from ollmlx.types import Event, GenerateRequest

logger = logging.getLogger(__name__)
Generate = Callable[[GenerateRequest], AsyncIterator[Event]]


def requests(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """One request a choice. A seed is shifted by the choice's index, or all choices would be one."""
    if count == 1:
        return [request]
    seed = request.options.seed
    return [
        request.model_copy(
            update={"options": request.options.model_copy(update={"seed": seed + index} if seed >= 0 else {})}
        )
        for index in range(count)
    ]


async def side_by_side(generate: Generate, wanted: list[GenerateRequest]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all choices, each with its choice's index, as they come. The first failure ends them all."""
    if len(wanted) == 1:
        async with closing(generate(wanted[0])) as events:
            async for event in events:
                yield 0, event
        return
    waiting: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue(maxsize=len(wanted))
    over = False

    async def follow(index: int) -> None:
        try:
            async with closing(generate(wanted[index])) as events:
                async for event in events:
                    await waiting.put((index, event))
            await waiting.put(None)
        except Exception as error:
            if over:  # nobody reads the queue any more, which may be full
                logger.exception("a choice did not end cleanly")
            else:
                await waiting.put(error)

    tasks = [asyncio.create_task(follow(index), name=f"choice-{index}") for index in range(len(wanted))]
    left = len(tasks)
    try:
        while left:
            item = await waiting.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
