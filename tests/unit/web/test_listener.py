"""What the listener adds to hypercorn's answers."""

from __future__ import annotations

import pytest

from ollmlx.web.listener import phrased


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 404 \r\na: b\r\n\r\n", b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n"),
        (b"HTTP/1.1 200 \r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"HTTP/1.1 404 Gone fishing\r\n\r\n", b"HTTP/1.1 404 Gone fishing\r\n\r\n"),
        (b"HTTP/1.1 599 \r\n\r\n", b"HTTP/1.1 599 \r\n\r\n"),
        (b"5\r\nhello\r\n", b"5\r\nhello\r\n"),
        (b"HTTP/1.1 404 \r\nis how an answer begins", b"HTTP/1.1 404 \r\nis how an answer begins"),
        (b"", b""),
    ],
)
def test_a_status_gets_its_phrase_and_nothing_else_is_touched(sent: bytes, said: bytes) -> None:
    assert phrased(sent) == said
