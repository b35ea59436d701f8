"""Refusing a request from its first line: an answer like any other's, at a fraction of the cost."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from ollmlx.errors import OllmlxError
from ollmlx.web.context import Exchange
from ollmlx.web.kit.errors import JSON, Failure, failure, failure_headers
from ollmlx.web.request_id import HEADER, request_id

if TYPE_CHECKING:
    from ollmlx.web.state import WebState

logger = logging.getLogger(__name__)
TOLD_EVERY = 1.0  # seconds
SENT_ID = re.compile(rb"\r\n%s:[ \t]*([^\r\n]*)" % HEADER.encode(), re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
ANY_ID = "req-that-is-put-in-for-each"


class Refusals:
    """The refusals of one daemon: written at once, told to log and metrics once a second."""

    def __init__(self, site: WebState) -> None:
        self._site = site
        self._written: dict[tuple[str, Failure], tuple[bytes, bytes]] = {}
        """Head and body without the request's id. As many as there are paths, and seconds to try again after."""
        self._untold: list[Exchange] = []
        self._telling: asyncio.TimerHandle | None = None

    def answer(self, error: OllmlxError, request: bytes, path: str, client: str) -> bytes:
        """The whole answer to a POST of which these bytes have come."""
        began = time.monotonic_ns()
        sent = SENT_ID.search(request)
        id_ = request_id(sent[1].decode("latin-1").strip() if sent else None)
        found = failure(error)
        written = self._written.get((path, found))
        if written is None:
            written = self._written[path, found] = self._write(path, found)
        head, body = written
        body = body.replace(ANY_ID.encode(), id_.encode())
        self._note(Exchange(id_, "POST", path, client, route=path, started_ns=began), found)
        return b"%scontent-length: %d\r\n%s: %s\r\n\r\n%s" % (head, len(body), HEADER.encode(), id_.encode(), body)

    def tell(self) -> None:
        """Tell metrics of each, as of every other exchange, and the log of all at once: a line each would cost more
        than the refusals."""
        if self._telling is None:
            return
        self._telling.cancel()
        untold, self._untold, self._telling = self._untold, [], None
        for exchange in untold:
            self._site.over(exchange)
        what = "a request" if len(untold) == 1 else f"{len(untold)} requests"
        logger.warning("refused %s unread, for the queue is full ([runners] max_queue)", what)

    def _write(self, path: str, found: Failure) -> tuple[bytes, bytes]:
        body = orjson.dumps(self._site.shapes.of(path)(replace(found, request_id=ANY_ID)))
        headers = [(b"content-type", JSON.encode()), (b"connection", b"close"), *failure_headers(found)]
        status = b"HTTP/1.1 %d %s\r\n" % (found.status, HTTPStatus(found.status).phrase.encode())
        return status + b"".join(b"%s: %s\r\n" % header for header in headers), body

    def _note(self, exchange: Exchange, found: Failure) -> None:
        exchange.status, exchange.error, exchange.code = found.status, found.kind, found.code or ""
        exchange.in_crowd = True
        exchange.total_ns = time.monotonic_ns() - exchange.started_ns
        self._untold.append(exchange)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TOLD_EVERY, self.tell)


def whole(request: bytes) -> bool:
    """Whether this is all that the client wants to send."""
    head, _, body = request.partition(b"\r\n\r\n")
    length = LENGTH.search(head + b"\r\n")
    return length is not None and int(length[1]) <= len(body)
