"""The shared cache of a runner: who waits, who is next, and what a request that leaves gives back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ollmlx_llamacpp.pool import TokenPool


@asynccontextmanager
async def holding(pool: TokenPool, tokens: int) -> AsyncIterator[asyncio.Event]:
    """Hold tokens in a task of its own; the event is set once they are held."""
    held, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with pool.claim(tokens):
            held.set()
            await release.wait()

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    try:
        yield held
    finally:
        release.set() if held.is_set() else task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_claims_that_fit_run_side_by_side_and_the_next_waits() -> None:
    pool = TokenPool(100)
    async with holding(pool, 60) as first, holding(pool, 40) as second, holding(pool, 10) as third:
        assert (first.is_set(), second.is_set(), third.is_set()) == (True, True, False)
    assert pool.free == 100


async def test_a_small_claim_does_not_overtake_a_large_one() -> None:
    pool = TokenPool(100)
    async with holding(pool, 60), holding(pool, 50) as large, holding(pool, 10) as small:
        assert (large.is_set(), small.is_set()) == (False, False)


async def test_room_that_becomes_free_goes_to_the_one_who_waited_longest() -> None:
    pool = TokenPool(100)
    async with holding(pool, 50):
        async with holding(pool, 50), holding(pool, 50) as waiting:
            assert not waiting.is_set()
        assert pool.free == 50


async def test_a_claim_for_more_than_there_is_takes_all_of_it() -> None:
    pool = TokenPool(100)
    async with holding(pool, 1000) as everything:
        assert everything.is_set()
        assert pool.free == 0
    assert pool.free == 100


async def test_a_request_that_leaves_while_it_waits_makes_way_for_the_next() -> None:
    pool = TokenPool(100)
    async with holding(pool, 60):
        async with holding(pool, 50) as gone:
            assert not gone.is_set()
        async with holding(pool, 40) as next_one:
            assert next_one.is_set()
    assert pool.free == 100
