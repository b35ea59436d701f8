"""The daemon on a real port: start, drain, slow and hostile clients, clients that leave, the log."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import signal
import socket
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import ENDLESS, connected, sent, user

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import HANG_GUARD

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that leave it as it was."""
    fakes: dict[str, dict[str, Any]] = {
        "tiny": {},
        "narrow": {"parallel": 1},
        "slow": {"load_steps": 100_000, "load_ms": 50},
    }
    with Daemon(tmp_path_factory.mktemp("shared"), fakes=fakes) as started:
        yield started


def settings(**sections: Any) -> dict[str, Any]:
    """A daemon with the fake model `tiny` and these sections of settings."""
    return {"fakes": {"tiny": {}}, "settings": sections}


def port(daemon: Daemon) -> int:
    return int(daemon.url.rsplit(":", 1)[1])


def named(request_id: str) -> dict[str, Any]:
    """Return the options of a request that the log shows under this id."""
    return {"headers": {"X-Request-ID": request_id}}


def flood(client: socket.socket) -> None:
    """Write until the server closes the connection. Raises ConnectionError."""
    while True:
        client.sendall(b"x" * 1_000_000)


def lines(daemon: Daemon, body: Any) -> Generator[Any, None, None]:
    """The records of a stream of /api/chat, as they come."""
    with closing(http.client.HTTPConnection("127.0.0.1", port(daemon), timeout=HANG_GUARD)) as connection:
        connection.request("POST", "/api/chat", json.dumps(body))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while line := answer.readline():
            yield json.loads(line)


def chat(words: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": user(words)}


SLOW = chat(ENDLESS)


@pytest.mark.fault(17)
def test_a_stopped_daemon_refuses_new_work_and_ends_when_its_last_stream_has(daemon: StartDaemon) -> None:
    one = daemon(**settings(server={"drain_timeout": "1h"}))
    long, short = lines(one, SLOW), lines(one, chat("fake:tokens=20 fake:rate=20 go"))
    assert next(long)["done"] is False
    assert next(short)["done"] is False
    one.process.send_signal(signal.SIGTERM)
    wait_until(lambda: one.get("/readyz").status_code == 503)
    assert one.post("/api/chat", chat("hi")).status_code == 503
    assert one.get("/livez").status_code == 200
    assert list(short)[-1]["done"] is True
    assert next(long)["done"] is False
    long.close()
    assert one.process.wait(HANG_GUARD) == 0


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("drain_timeout", "again"), [("0.5s", False), ("1h", True)], ids=["time is over", "second signal"]
)
def test_a_stream_ends_with_a_record_when_the_drain_is_over_or_a_second_signal_comes(
    daemon: StartDaemon, drain_timeout: str, again: bool
) -> None:
    one = daemon(**settings(server={"drain_timeout": drain_timeout}))
    stream = lines(one, SLOW)
    next(stream)
    one.process.send_signal(signal.SIGTERM)
    if again:
        wait_until(lambda: one.get("/readyz").status_code == 503)
        one.process.send_signal(signal.SIGINT)
    assert list(stream)[-1] == {"error": "the server is shutting down"}
    assert one.process.wait(HANG_GUARD) == 0


@pytest.mark.fault(18)
def test_half_a_body_and_an_idle_connection_do_not_hold_the_daemon(daemon: StartDaemon) -> None:
    one = daemon(**settings(server={"drain_timeout": "0.2s"}))
    with closing(connected(one)) as half:
        half.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        with closing(connected(one)) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in idle.recv(1000)
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(HANG_GUARD) == 0


@pytest.mark.fault(38)
def test_a_client_that_goes_on_writing_a_refused_body_is_disconnected(shared: Daemon) -> None:
    with closing(connected(shared)) as client:
        client.sendall(b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 107374182400\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            flood(client)
    wait_until(lambda: "POST /api/embed 413" in shared.log_text)


@pytest.mark.fault(39)
def test_a_body_that_comes_too_slowly_is_given_up(daemon: StartDaemon) -> None:
    one = daemon(**settings(server={"body_timeout": "0.3s"}))
    with closing(connected(one)) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.fault(39)
def test_a_client_that_reads_nothing_is_dropped_and_its_work_ends(daemon: StartDaemon) -> None:
    one = daemon(**settings(server={"write_timeout": "1s"}))
    body = json.dumps(chat("fake:tokens=2000000 go")).encode()
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port(one)))
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(10)
        wait_until(one.idle)
    wait_until(lambda: "POST /api/chat 499" in one.log_text)


PREFILLING = "fake:prefill=100000 fake:prefill_ms=100 go"


LEFT: list[tuple[str, dict[str, Any]]] = [
    *(
        (path, {**chat(words), "max_tokens": 100_000, "stream": stream})
        for path in ("/api/chat", "/v1/chat/completions", "/v1/messages")
        for words in (ENDLESS, PREFILLING)
        for stream in (True, False)
    ),
    ("/api/embed", {"input": PREFILLING}),
    ("/v1/embeddings", {"input": PREFILLING}),
    ("/api/embeddings", {"prompt": PREFILLING}),
]


@pytest.mark.fault(40)
@pytest.mark.parametrize(("path", "body"), LEFT, ids=str)
def test_a_client_that_leaves_frees_its_slot_at_once(shared: Daemon, path: str, body: dict[str, Any]) -> None:
    with closing(sent(shared, path, {**body, "model": "narrow"})):  # it serves one request at a time
        wait_until(shared.active)
    assert shared.post("/api/chat", {**chat("hi"), "model": "narrow", "stream": False}).status_code == 200


@pytest.mark.fault(40)
def test_a_client_that_leaves_the_queue_or_a_load_is_dropped_at_once_and_logged(shared: Daemon) -> None:
    def depth() -> float:
        text = shared.get("/metrics").text
        return float(re.search(r"^ollmlx_queue_depth (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]

    def loaded() -> list[str]:
        return [model["model"] for model in shared.loaded()]

    def leaver(model: str, name: str) -> socket.socket:
        return sent(shared, "/api/chat", {**SLOW, "model": model}, X_Request_ID=name)

    with closing(leaver("narrow", "served")):
        wait_until(lambda: "narrow#" in shared.log_text and "served" in shared.log_text and depth() == 0 and loaded())
        with closing(leaver("narrow", "left-the-queue")), closing(leaver("slow", "left-the-load")):
            wait_until(lambda: depth() == 2 and "slow:latest" in loaded())
        wait_until(lambda: depth() == 0)
        wait_until(lambda: "slow:latest" not in loaded())
    names = {"served", "left-the-queue", "left-the-load"}
    wait_until(lambda: names <= set(re.findall(r"POST /api/chat 499 .+ request=(\S+)", shared.log_text)))


@pytest.mark.fault(46)
def test_the_text_of_a_prompt_is_told_and_nothing_is_generated(shared: Daemon) -> None:
    said = {"model": "tiny", "_debug_render_only": True}
    chat = shared.post("/api/chat", {**said, "messages": [{"role": "user", "content": "hi"}]}).json()
    assert "hi" in chat["_debug_info"]["rendered_template"]
    assert chat["_debug_info"]["image_count"] == 0
    assert not {"message", "done"} & {*chat}
    raw = shared.post("/api/generate", {**said, "prompt": "as it is", "raw": True}).json()
    assert raw["_debug_info"] == {"rendered_template": "as it is", "image_count": 0}


def test_two_host_headers_are_refused(shared: Daemon) -> None:
    with closing(connected(shared)) as client:
        client.sendall(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 4")


@pytest.mark.fault(47)
def test_a_key_is_asked_for_and_never_written_and_no_file_is_open_to_other_users(daemon: StartDaemon) -> None:
    one = daemon(**settings(security={"api_keys": ["sesame-open"]}))
    key = {"Authorization": "Bearer sesame-open"}
    wrong = {"Authorization": "Bearer sesame-close"}
    refused: list[tuple[int, dict[str, str]]] = [
        (401, {}),
        (401, wrong),
        (403, {**key, "Host": "rebound.example.org"}),
        (403, {**key, "Origin": "https://evil.example.org"}),
    ]
    for status, headers in refused:
        assert one.get("/api/tags", headers=headers).status_code == status
    assert one.post("/api/chat", chat("hi"), headers=key).status_code == 200
    assert "sesame" not in one.log_text
    assert [path for path in (one.state, *one.state.rglob("*")) if path.lstat().st_mode & 0o077] == []


HELLO = user("hello")
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": HELLO}),
    ("/api/chat", {"messages": HELLO, "stream": False}),
    ("/api/chat", {}),
    ("/api/generate", {"prompt": "hello"}),
    ("/api/generate", {}),
    ("/api/embed", {"input": "hello"}),
    ("/api/embed", {"input": []}),
    ("/api/embeddings", {"prompt": "hello"}),
    ("/v1/chat/completions", {"messages": HELLO}),
    ("/v1/chat/completions", {"messages": HELLO, "stream": True, "n": 2}),
    ("/v1/completions", {"prompt": "hello"}),
    ("/v1/responses", {"input": "hello", "stream": True}),
    ("/v1/embeddings", {"input": "hello"}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "stream": True}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9}),
    ("/v1/messages/count_tokens", {"messages": HELLO}),
]
"""Requests that need a runner; an empty one loads it."""


@pytest.mark.parametrize(("path", "body"), ASKED, ids=[f"{path} {' '.join(body)}" for path, body in ASKED])
def test_an_answer_of_a_runner_says_how_long_the_request_waited(
    shared: Daemon, path: str, body: dict[str, Any]
) -> None:
    name = f"waited-{ASKED.index((path, body))}"
    answer = shared.post(path, {"model": "tiny", **body}, **named(name))
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == name
    assert float(answer.headers["x-ollmlx-queue-ms"]) >= 0
    assert float(answer.headers["x-ollmlx-load-ms"]) >= 0
    line = rf"POST {path} 200 ms=.+ model=tiny queue_ms=.+ load_ms=.+ request={name}$"
    wait_until(lambda: re.search(line, shared.log_text, re.MULTILINE))


def test_several_choices_are_counted_as_what_they_cost(shared: Daemon) -> None:
    asked = {"model": "tiny", "n": 3, "messages": user("fake:tokens=10 go")}
    answer = shared.post("/v1/chat/completions", asked, **named("three-choices"))
    assert answer.json()["usage"]["completion_tokens"] == 30
    wait_until(lambda: re.search(r" tokens=30 finish=stop request=three-choices$", shared.log_text, re.MULTILINE))


def test_loading_takes_the_context_that_is_asked_for(daemon: StartDaemon) -> None:
    one = daemon(**settings(runners={"context_length": 1024}))
    asked = {"model": "tiny", "options": {"num_ctx": 2048}}
    for path, body in (("/api/generate", asked), ("/api/embed", {**asked, "input": []})):
        assert one.post(path, body).status_code == 200
        assert [model["context_length"] for model in one.loaded()] == [2048]
        one.post("/api/generate", {"model": "tiny", "keep_alive": 0})
        wait_until(lambda: one.loaded() == [])


STEPS = (
    r"tiny: engine fake \(it runs the format fake\); context 4096, needs .+",
    r"tiny#1: .+ reserved for a context of 4096; .+ of .+ are left, 0 other models have to exit first",
    r"waiting for tiny:latest; 1 requests wait",
    r"tiny#1 started as process \d+",
    r"probe of tiny#1: ready, progress \d+, active 0",
    r"tiny#1 is loaded: sending a trial prompt",
    r"tiny#1 answered it after .+ s",
    r"tiny#1 is ready after .+ s",
    r"tiny#1 serves the request: waited .+ s, 1 slots taken",
    r"tiny#1 \| DEBUG \[trace-me\] ollmlx.runner: generate: begun",
    r"tiny#1 \| DEBUG \[trace-me\] ollmlx.runner: generate: \d+ bytes in .+ s",
    r"tiny#1 is done with the request after .+ s",
    r"POST /api/chat 200 ms=.+ model=tiny queue_ms=.+ load_ms=.+ prefill_ms=.+ decode_ms=.+ prompt_tokens=.+ "
    r"cached_tokens=.+ tokens=.+ finish=stop",
)
"""The log lines of one request with OLLAMA_DEBUG=1; each has the id of the request."""


def test_the_log_shows_each_step_of_a_request_with_its_id_and_nothing_that_was_said(daemon: StartDaemon) -> None:
    one = daemon(**settings(logging={"level": "info"}), env={"OLLAMA_DEBUG": "1"})
    assert one.post("/api/chat", chat("a secret"), **named("trace-me")).status_code == 200
    assert one.post("/v1/embeddings", {"model": "tiny", "input": "a secret"}, **named("vectors")).status_code == 200
    wait_until(lambda: "POST /v1/embeddings 200" in one.log_text)

    def whole() -> bool:
        told = [line for line in one.log_text.splitlines() if "trace-me" in line]
        return all(any(re.search(step, line) for line in told) for step in STEPS)

    # What the runner says at its end may come after the daemon's own line about the request.
    wait_until(whole, because=f"each of {STEPS} is in the log")
    vectors = r"/v1/embeddings 200 .+ model=tiny queue_ms=.+ load_ms=.+ prompt_tokens=\d+ request=vectors"
    assert re.search(vectors, one.log_text)
    assert "a secret" not in one.log_text
    assert one.stop() == 0
    assert re.search(r"tiny#1 \(process \d+\) has exited: status 0", one.log_text)


def test_an_upload_of_any_size_is_stored_as_it_comes_and_taken_a_second_time(shared: Daemon) -> None:
    piece, pieces = b"\0" * (1024 * 1024), 150
    digest = hashlib.sha256()
    for _ in range(pieces):
        digest.update(piece)
    for status in (201, 200):
        with closing(http.client.HTTPConnection("127.0.0.1", port(shared), timeout=HANG_GUARD)) as connection:
            connection.putrequest("POST", f"/api/blobs/sha256:{digest.hexdigest()}")
            connection.putheader("Content-Length", str(len(piece) * pieces))
            connection.endheaders()
            for _ in range(pieces):
                connection.send(piece)
            assert connection.getresponse().status == status
    assert psutil.Process(shared.process.pid).memory_info().rss < 400 * 1024 * 1024
