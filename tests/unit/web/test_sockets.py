"""The address that the daemon listens on, and the errors when it cannot."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.servers.serving import Answer, Served

from ollmlx.errors import ConfigError
from ollmlx.text.addresses import Address
from ollmlx.web.server.sockets import (
    bind_error,
    bound_address,
    is_listening,
    listening_socket,
    program_at,
    served_address,
)


@pytest.mark.parametrize("setting", ["https://box", "box:99999", "http://box/prefix", "a b"])
def test_an_address_that_cannot_be_listened_on_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError):
        served_address(setting)


def test_port_0_becomes_a_free_port() -> None:
    requested = served_address("127.0.0.1:0")
    with closing(listening_socket(requested)) as sock:
        found = bound_address(sock, requested)
        assert found.port > 0
        assert is_listening(found)
    assert not is_listening(found)


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown host"):
        listening_socket(Address("no-such-host.invalid", 0))


@pytest.fixture
def answer() -> Answer:
    """The answer of the server; a test sets its body."""
    return Answer()


@pytest.fixture
def address(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    monkeypatch.setattr("ollmlx.web.server.sockets.REPLY_TIMEOUT", 60.0)
    served = Served(lambda asked: answer)
    yield Address.parse(served.url)
    served.close()


@pytest.mark.finding("NET001")
@pytest.mark.parametrize(
    ("reply", "program"),
    [
        (b'{"version": "0.12.6"}', "Ollama 0.12.6"),
        (b'{"version": "0.33.0", "ollmlx": "0.1.0"}', "another ollmlx 0.1.0"),
        (b'{"version": "0.1.0", "protocol": 1}', "another ollmlx 0.1.0"),
        (b"<html>", "pid"),
    ],
)
def test_the_program_that_uses_the_port_is_named(address: Address, answer: Answer, reply: bytes, program: str) -> None:
    answer.body = reply
    assert program in program_at(address)
    with pytest.raises(OSError, match="in use") as taken:
        listening_socket(address)
    error = bind_error(address, taken.value)
    assert error.code == "NET001"
    assert error.message.startswith(f"127.0.0.1:{address.port} is in use by ")
    assert ("ollmlx serve --stop" in (error.hint or "")) == ("ollmlx" in program)


def test_a_daemon_that_still_drains_is_named_with_what_to_do(address: Address, answer: Answer) -> None:
    error = "the server is shutting down; 1 running request may go on"
    answer.body = json.dumps({"ollmlx": "0.1.0", "stopping": True, "error": error}).encode()
    found = bind_error(address, OSError(errno.EADDRINUSE, "in use"))
    assert found.message.endswith(f"): {error}")
    assert found.hint == f"start again when it has ended, or end its running requests now: kill {os.getpid()}"


def test_a_program_that_does_not_answer_is_named_by_its_process() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        assert "pid" in program_at(Address("127.0.0.1", silent.getsockname()[1]))


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "privileges"), (errno.EADDRNOTAVAIL, "no such address"), (errno.ENOBUFS, "cannot listen")],
)
def test_other_reasons_are_stated(number: int, reason: str) -> None:
    assert reason in bind_error(Address("127.0.0.1", 80), OSError(number, "something")).message
