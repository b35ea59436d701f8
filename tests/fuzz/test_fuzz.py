"""A live daemon gets requests that `/openapi.json` allows, and hostile ones."""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.fuzz.campaign import MODELS, campaign

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CASES = 200
GIB = 1 << 30
HOSTILE: dict[str, bytes] = {
    "nested 100,000 deep": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"model": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "half a surrogate": b'{"model": "\\ud800"}',
    "NaN": b'{"model": "parrot", "keep_alive": NaN}',
    "a number beyond all": b'{"model": "parrot", "keep_alive": 1e999}',
    "a key twice": b'{"model": "parrot", "model": "thinker"}',
    "no object": b"[]",
    "nothing": b"",
}
KINDS = ("application/json", "text/plain", "multipart/form-data; boundary=x", "application/xml", "\xff")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("fuzz"), fakes={name: {} for name in MODELS}) as started:
        yield started


@pytest.fixture(scope="module")
def document(server: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/openapi.json").json()
    return found


def taking_json(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Verb, path and description of every operation with a JSON body."""
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                yield verb.upper(), path, operation


def test_every_answer_is_one_the_description_names(server: Daemon) -> None:
    report = campaign(server.url, CASES, seed=20260101)
    assert report.failures == []
    assert report.cases >= CASES * 0.9
    assert report.statuses[200] > CASES / 5, report.statuses
    assert "Traceback" not in server.log_text


def send(server: Daemon, verb: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    host, port = server.address.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=120)) as connection:
        connection.request(verb, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_hostile_bodies_are_the_clients_fault_on_every_route(server: Daemon, document: dict[str, Any]) -> None:
    asked = 0
    for verb, path, _ in taking_json(document):
        for name, body in HOSTILE.items():
            status, told = send(server, verb, path, body)
            assert status == 400, f"{verb} {path} with {name}: {status} {told!r}"
            assert json.loads(told)["error"], f"{verb} {path} with {name}"
            asked += 1
    assert asked > 100
    assert server.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False}).json()["response"] == "x"


def test_a_content_type_changes_nothing(server: Daemon, document: dict[str, Any]) -> None:
    for verb, path, _ in taking_json(document):
        for kind in KINDS:
            status, told = send(server, verb, path, b'{"model": "nobody", "source": "nobody"}', content_type=kind)
            assert 400 <= status < 500, f"{verb} {path} as {kind!r}: {status} {told!r}"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_a_gibibyte_is_refused_without_being_read(server: Daemon, announced: bool) -> None:
    host, port = server.address.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=120)) as connection:
        connection.putrequest("POST", "/api/chat")
        connection.putheader(*("Content-Length", str(GIB)) if announced else ("Transfer-Encoding", "chunked"))
        connection.endheaders()
        sent, piece = 0, b" " * (1 << 20)
        while sent < GIB and not select.select([connection.sock], [], [], 0)[0]:  # until the answer is there
            connection.send(piece if announced else b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
        assert sent < GIB / 2
        assert connection.getresponse().status == 413
