"""Attack: connections that say nothing. They took every descriptor, so that the owner reached the daemon no more."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quart import Blueprint
from tests.conftest import StartDaemon

from ollmlx import Service
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.web.server.connections import HTTPServer
from ollmlx.web.server.limits import ConnectionLimits
from ollmlx.web.server.sockets import listening_socket, served_address

KEY = "key-of-the-owner-7716"
HALVES = (
    b"", b"GET /api/tags HTTP/1.1\r\nHost: local", b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 1000000\r\nContent-Type: application/json\r\n\r\n{",
)  # fmt: skip


class Silent:
    """A connection of a test: its peer, and whether it was closed."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.closed = False

    def abort(self) -> None:
        self.closed = True


def opened(limits: ConnectionLimits, peer: str, *, silent: bool = True) -> Silent | None:
    """Open a connection; None when it is refused."""
    if not limits.admit(peer):
        return None
    made = Silent(peer)
    limits.set_silent(made, silent)
    return made


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """A soft limit of 128 open files for what this test starts; returns the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_oldest_silent_connection_makes_room_first_of_the_same_address() -> None:
    limits = ConnectionLimits(4, per_peer=2, owners=1)
    first, second = opened(limits, "10.0.0.1"), opened(limits, "10.0.0.1")
    assert opened(limits, "10.0.0.1") is not None, "its own oldest one is closed"
    limits.leave("10.0.0.1")
    assert first is not None
    assert first.closed
    other = [opened(limits, f"10.0.0.{number}") for number in (2, 3, 4)]
    assert None not in other
    assert second is not None
    assert second.closed, "the oldest of all"


def test_busy_connections_are_never_closed_and_the_owner_still_gets_in() -> None:
    limits = ConnectionLimits(3, per_peer=3, owners=2)
    assert None not in [opened(limits, "10.0.0.1", silent=False) for _ in range(3)]
    assert opened(limits, "10.0.0.2") is None
    owners = [opened(limits, "127.0.0.1"), opened(limits, "::1")]
    assert None not in owners
    assert opened(limits, "10.0.0.2") is None, "others never take the owner's places"
    assert not any(owner.closed for owner in owners if owner)


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1"]), st.booleans()), max_size=60))
def test_no_order_of_connections_exceeds_the_limits(steps: list[tuple[str, bool]]) -> None:
    limits = ConnectionLimits(6, per_peer=4, owners=2)
    alive: list[Silent] = []
    for peer, silent in steps:
        made = opened(limits, peer, silent=silent)
        for closed in [one for one in alive if one.closed]:
            alive.remove(closed)
            limits.leave(closed.peer)
        alive += [made] if made else []
        assert len(alive) <= 8
        assert all(sum(one.peer == other for one in alive) <= 4 for other in ("10.0.0.1", "10.0.0.2"))


async def test_a_server_that_is_full_closes_the_oldest_silent_connection() -> None:
    def family(service: Service) -> Blueprint:
        made = Blueprint("hello", __name__)
        made.add_url_rule("/hello", "hello", lambda: "hello")
        return made

    sock = listening_socket(served_address("127.0.0.1:0"))
    limits = ConnectionLimits(3, owners=0)
    server = HTTPServer(web_app(FakeService(), family), sock, 1e6, limits)
    await server.start()
    async with asyncio.timeout(60):
        held = [await asyncio.open_connection(*sock.getsockname()) for _ in range(3)]
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionResetError):
            assert await held[0][0].read(1) == b""
        for _, open_writer in (*held, (reader, writer)):
            open_writer.close()
        await server.stop(1)


def test_silence_and_half_requests_without_a_key_keep_nobody_from_a_daemon(
    daemon: StartDaemon, few_descriptors: int
) -> None:
    server: Daemon = daemon(settings={"security": {"api_keys": [KEY]}, "server": {"body_timeout": 600}})
    limit = next(
        line for line in Path(f"/proc/{server.process.pid}/limits").read_text().splitlines() if "open files" in line
    )
    assert limit.split()[3] == str(few_descriptors), "the daemon raised its limit to the hard one"
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, few_descriptors), few_descriptors))
    host, _, port = server.address.rpartition(":")
    with ExitStack() as opened_ones:
        for number in range(400):
            one = opened_ones.enter_context(closing(socket.create_connection((host, int(port)), timeout=60)))
            one.sendall(HALVES[number % len(HALVES)])
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"model": "parrot", "prompt": "hello", "stream": False}
        assert server.post("/api/generate", body, headers=headers).status_code == 200
        assert server.get("/livez").status_code == 200
        assert server.get("/api/daemon", headers=headers).json().get("queue", []) in ([], 0)
