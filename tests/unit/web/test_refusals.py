"""Refusals from the first line: whole answers in the family's shape, told to metrics, and to the log once a second."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from ollmlx.errors import Busy
from ollmlx.settings import Settings
from ollmlx.testing import eventually
from ollmlx.web import Exchange
from ollmlx.web.server.refusals import Refusals
from ollmlx.web.state import WebState

REQUEST = b"POST /api/chat?x=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\n{}"


class Configured:
    settings = Settings()


@pytest.mark.fault(41)
async def test_a_refusal_is_a_whole_answer_in_its_dialect_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    site = WebState(Configured())
    told: list[Exchange] = []
    site.observers.append(told.append)
    site.shapes.add("/api/", lambda failure: {"oops": failure.message})
    refusals = Refusals(site)
    with caplog.at_level(logging.INFO, "ollmlx"):
        answer = refusals.answer(Busy("too many", retry_after=2.5), REQUEST, "/api/chat", "10.0.0.7")
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert {b"retry-after: 3", b"connection: close", b"x-request-id: mine"} <= set(lines)
    assert b"content-length: %d" % len(body) in lines
    assert orjson.loads(body) == {"oops": "too many"}
    assert (told, caplog.messages) == ([], []), "all are told of once a second"
    refusals.tell()
    refusals.tell()
    assert [(one.id, one.route, one.status, one.error, one.client, one.over) for one in told] == [
        ("mine", "/api/chat", 503, "busy", "10.0.0.7", True)
    ]
    assert 0 < told[0].total_ns < 10**9
    assert len(caplog.messages) == 1


async def test_each_refusal_carries_its_own_id_where_the_dialect_puts_it() -> None:
    site = WebState(Configured())
    site.shapes.add("/v1/", lambda failure: {"message": failure.message, "id": failure.request_id})
    refusals = Refusals(site)
    answers = []
    for id_ in (b"a", b"somewhat-longer", b"a"):
        request = REQUEST.replace(b"mine", id_)
        head, _, body = refusals.answer(Busy("too many"), request, "/v1/messages", "local").partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head.split(b"\r\n")
        answers.append(orjson.loads(body))
    assert answers == [{"message": "too many", "id": id_} for id_ in ("a", "somewhat-longer", "a")]
    refusals.tell()


@pytest.mark.parametrize("sent", [b"", b"X-Request-ID: a b\r\n", b"X-Request-ID: \x1b[31m\r\n"])
async def test_an_id_that_is_missing_or_cannot_stand_in_a_log_is_made(sent: bytes) -> None:
    request = b"POST /api/chat HTTP/1.1\r\n" + sent + b"\r\n"
    answer = Refusals(WebState(Configured())).answer(Busy("too many"), request, "/api/chat", "local")
    assert b"\r\nx-request-id: req-" in answer


@pytest.mark.parametrize(("count", "said"), [(1, "a request"), (3, "3 requests")])
async def test_one_line_tells_of_all(
    count: int, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollmlx.web.server.refusals.TOLD_EVERY", 0)
    refusals = Refusals(WebState(Configured()))
    with caplog.at_level(logging.INFO, "ollmlx"):
        for _ in range(count):
            refusals.answer(Busy("too many"), REQUEST, "/api/chat", "local")
        await eventually(lambda: caplog.messages)
        await asyncio.sleep(0)
    assert caplog.messages == [f"refused {said} unread, for the queue is full ([runners] max_queue)"]
