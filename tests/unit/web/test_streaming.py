"""Streams: ready records leave in one chunk; a failure becomes the last record; the generator is always closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ollmlx.errors import Busy, RunnerFailed
from ollmlx.web.kit.errors import Failure
from ollmlx.web.kit.streaming import CHUNK, Stream
from ollmlx.web.server.drain import Drain


def error_record(failure: Failure) -> bytes:
    return f"!{failure.kind}:{failure.message}\n".encode()


def stream(records: AsyncGenerator[bytes, None]) -> Stream:
    return Stream(records, error_record, Drain())


async def plain(*records: bytes, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for each in records:
        yield each
    if error is not None:
        raise error


async def chunks(source: Stream) -> list[bytes]:
    await source.start()
    return [chunk async for chunk in source]


async def test_records_that_are_ready_leave_in_one_chunk() -> None:
    release = asyncio.Event()

    async def records() -> AsyncGenerator[bytes, None]:
        for name in (b"a", b"b", b"c"):
            yield name
        await release.wait()
        for name in (b"d", b"e"):
            yield name

    source = stream(records())
    await source.start()
    assert await anext(source) == b"abc"
    waiting = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    assert not waiting.done()
    release.set()
    assert await waiting == b"de"
    with pytest.raises(StopAsyncIteration):
        await anext(source)


async def test_a_chunk_is_bounded() -> None:
    found = await chunks(stream(plain(*[b"x" * (CHUNK // 2)] * 10)))
    assert max(map(len, found)) <= CHUNK + CHUNK // 2
    assert sum(map(len, found)) == 10 * (CHUNK // 2)


async def test_a_failure_before_the_first_record_is_raised() -> None:
    source = stream(plain(error=Busy("full")))
    with pytest.raises(Busy):
        await source.start()


async def test_a_later_failure_becomes_the_last_record_and_a_bug_is_logged_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await chunks(stream(plain())) == []
    source = stream(plain(b"a", b"b", error=RunnerFailed("it died")))
    assert await chunks(source) == [b"ab!runner_failed:it died\n"]
    (found,) = await chunks(stream(plain(b"a", error=ZeroDivisionError("secret"))))
    assert found.startswith(b"a!internal:")
    assert b"secret" not in found
    assert "ZeroDivisionError: secret" in caplog.text


class Source:
    """A generator that yields one record, waits, and notes how it ends."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def records(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.closed.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            self.closed.append("closed")


@pytest.mark.parametrize(("read", "closed"), [(True, ["cancelled", "closed"]), (False, ["closed"])])
async def test_closing_a_stream_closes_its_generator_at_once(read: bool, closed: list[str]) -> None:
    source = Source()
    made = stream(source.records())
    await made.start()
    if read:
        assert await anext(made) == b"a"  # the second record was tried, and is waited for
    await made.aclose()
    assert source.closed == closed
    await made.aclose()


async def test_a_cancelled_reader_cancels_the_generator() -> None:
    source = Source()
    made = stream(source.records())
    await made.start()
    await anext(made)
    reading = asyncio.ensure_future(anext(made))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed == ["cancelled", "closed"]


async def test_closing_a_stream_closes_a_generator_that_only_yields_to_the_loop() -> None:
    closed = []

    async def records() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            for _ in range(1_000_000):
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    made = stream(records())
    await made.start()
    await anext(made)
    await made.aclose()
    assert closed == [True]


async def test_timeouts_inside_a_generator_hold_while_it_is_waited_for() -> None:
    async def records() -> AsyncGenerator[bytes, None]:
        yield b"a"
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            yield b"late"

    assert b"".join(await chunks(stream(records()))) == b"alate"


async def slow(release: asyncio.Event, closed: list[bool]) -> AsyncGenerator[bytes, None]:
    try:
        await release.wait()
        yield b"a"
        await asyncio.Event().wait()
    finally:
        closed.append(True)


async def test_a_stream_that_has_nothing_to_say_says_that_it_lives() -> None:
    release, closed = asyncio.Event(), list[bool]()
    made = Stream(slow(release, closed), error_record, Drain(), lambda: b".", 0.001)
    await made.start()
    for _ in range(3):
        assert await anext(made) == b"."
    release.set()
    while (chunk := await anext(made)) == b".":
        pass
    assert chunk == b"a"
    assert await anext(made) == b"."  # also between two records
    await made.aclose()
    assert closed == [True]


async def test_a_stream_without_such_a_record_waits() -> None:
    release, closed = asyncio.Event(), list[bool]()
    made = Stream(slow(release, closed), error_record, Drain(), None, 0.001)
    starting = asyncio.ensure_future(made.start())
    done, _ = await asyncio.wait((starting,), timeout=0.05)
    assert not done
    release.set()
    await starting
    assert await anext(made) == b"a"
    await made.aclose()


async def test_a_failure_after_the_first_sign_of_life_becomes_the_last_record() -> None:
    release = asyncio.Event()

    async def records() -> AsyncGenerator[bytes, None]:
        await release.wait()
        async for record in plain(error=RunnerFailed("it died")):
            yield record

    made = Stream(records(), error_record, Drain(), lambda: b".", 0.001)
    await made.start()
    release.set()
    assert b"".join([chunk async for chunk in made]).lstrip(b".") == b"!runner_failed:it died\n"


async def test_a_reader_that_is_cancelled_between_signs_of_life_cancels_the_generator() -> None:
    source = Source()
    made = Stream(source.records(), error_record, Drain(), lambda: b".", 10)
    await made.start()
    assert await anext(made) == b"a"
    reading = asyncio.ensure_future(anext(made))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed == ["cancelled", "closed"]
