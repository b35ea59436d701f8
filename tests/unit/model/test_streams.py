"""Closing streams in time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ollmlx.model.events import closing


async def test_an_abandoned_generator_is_closed_at_the_end_of_the_block() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("closed")

    async with closing(numbers()) as stream:
        async for _ in stream:
            break
        assert ended == []
    assert ended == ["closed"]


async def test_an_iterator_without_aclose_is_taken_as_it_is() -> None:
    class Once:
        def __init__(self) -> None:
            self.left = 1

        def __aiter__(self) -> Once:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return 7

    async with closing(Once()) as stream:
        assert [item async for item in stream] == [7]
