"""A crowd: many requests to one model at the same moment, more than the queue takes, while /livez is asked all along.

    python benchmarks/crowd.py [--requests 1000] [--queue 64] [--parallel 8] [--connect used|late]

Bounded in count, loopback only, a fake model; starts its own daemon in a temporary folder and stops it. The connections
are open before the requests are sent (`--connect early`), have been used for another request (`used`), or are opened
with them (`late`). /livez is asked on a connection of its own from a process of its own. Prints a table; exits 1 when
an answer was neither complete nor a clean refusal.
"""

from __future__ import annotations

import argparse
import http.client
import json
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ollmlx.testing.daemon import Daemon

PATIENCE = 120.0
PULSE = 0.01
"""Seconds between two questions to /livez."""


@dataclass
class Answer:
    """What one request got, and when: seconds since it was sent until the first byte and the last."""

    status: int
    first: float
    last: float
    retry_after: int
    complete: bool


class Client:
    """One request on a bare socket: a thousand of them must not keep the machine from answering."""

    def __init__(self, port: int) -> None:
        body = json.dumps({"model": "parrot", "prompt": "a b c", "stream": False})
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        self._request = f"{head}\r\n{body}".encode()
        self._port = port
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self._began = self._first = 0.0
        self._told = b""

    def connect(self) -> None:
        """Begin to; the socket can be written when the connection is there."""
        self._began = time.perf_counter()
        self.sock.connect_ex(("127.0.0.1", self._port))

    def greet(self) -> None:
        """Use the connection for something else."""
        self.sock.setblocking(True)
        self.sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert self.sock.recv(65536).startswith(b"HTTP/1.1 200")
        self.sock.setblocking(False)

    def begin(self) -> None:
        """Connected already: the time counts from now."""
        self._began = time.perf_counter()

    def send(self) -> bool:
        """Send it all; False while there is no connection yet."""
        try:
            return self.sock.send(self._request) == len(self._request)
        except (BlockingIOError, BrokenPipeError):
            return False

    def read(self) -> Answer | None:
        """The answer, when it is complete or the connection has ended."""
        piece = self.sock.recv(65536)
        now = time.perf_counter() - self._began
        self._first = self._first or now
        self._told += piece
        head, _, text = self._told.partition(b"\r\n\r\n")
        named = dict(header.lower().split(b": ", 1) for header in head.split(b"\r\n")[1:] if b": " in header)
        if piece and len(text) < int(named.get(b"content-length", b"1000000")):
            return None
        status = int(head.split()[1])
        complete = b'"done":true' in text if status == 200 else b"maximum pending requests exceeded" in text
        return Answer(status, self._first, now, int(named.get(b"retry-after", b"0")), complete)


def crowd(port: int, requests: int, connect: str) -> list[Answer]:
    """Every request, sent as fast as one process can; the answers as they come."""
    clients = [Client(port) for _ in range(requests)]
    answers: list[Answer] = []
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        if connect != "late":
            for client in clients:
                client.connect()
            if connect == "used":
                for client in clients:
                    client.greet()
            time.sleep(1)  # the daemon has accepted them all
        for client in clients:
            if connect == "late":
                client.connect()
            else:
                client.begin()
            sent = client.send()
            selector.register(client.sock, selectors.EVENT_READ if sent else selectors.EVENT_WRITE, client)
        while len(answers) < requests:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{requests - len(answers)} requests have no answer after {PATIENCE:.0f} s")
            answers += heard(selector, 1)
    return answers


def heard(selector: selectors.BaseSelector, patience: float) -> Iterator[Answer]:
    """What can be done now: requests are sent over new connections, and answers read; those that are complete."""
    for key, ready in selector.select(patience):
        if ready & selectors.EVENT_WRITE:
            if key.data.send():
                selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        elif (answer := key.data.read()) is not None:
            selector.unregister(key.fileobj)
            key.data.sock.close()
            yield answer


def pulse(port: int) -> None:
    """Ask /livez until told to stop; print how long each answer took, in seconds."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    took = []
    while not stopped:
        began = time.perf_counter()
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
        took.append(time.perf_counter() - began)
        assert answer.status == 200
        time.sleep(PULSE)
        if len(took) == 1:
            print("started", flush=True)
    print(json.dumps(took))


def share(values: list[float], part: float) -> str:
    """A quantile in milliseconds."""
    found = sorted(values)
    return f"{found[min(len(found) - 1, int(part * len(found)))] * 1e3:.0f}" if found else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--connect", choices=("early", "used", "late"), default="early")
    parser.add_argument("--pulse", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.pulse:
        pulse(asked.pulse)
        return 0
    requests = min(asked.requests, 4000)
    fakes = {"parrot": {"rate": 100, "tokens": 10, "parallel": asked.parallel}}
    settings = {"runners": {"max_queue": asked.queue}, "logging": {"level": "info"}}
    with tempfile.TemporaryDirectory(prefix="ollmlx-crowd-") as folder:
        server = Daemon(Path(folder), fakes=fakes, settings=settings).start()
        port = int(server.url.rsplit(":", 1)[1])
        try:
            server.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False})
            watch = subprocess.Popen([sys.executable, __file__, "--pulse", str(port)], stdout=subprocess.PIPE)
            assert watch.stdout is not None
            watch.stdout.readline()
            before = psutil.Process(server.process.pid).cpu_times()
            answers = crowd(port, requests, asked.connect)
            after = psutil.Process(server.process.pid).cpu_times()
            watch.terminate()
            beats = json.loads(watch.communicate(timeout=10)[0])
        finally:
            server.stop()
    refused = [answer for answer in answers if answer.status == 503]
    served = [answer for answer in answers if answer.status == 200]
    bad = len(answers) - sum(a.complete and (a.status == 200 or a.retry_after > 0) for a in answers)
    print(f"requests, queue, parallel   {requests}, {asked.queue}, {asked.parallel} (connections {asked.connect})")
    print(f"statuses                    {dict(Counter(answer.status for answer in answers))}, bad {bad}")
    print(f"all answered after, s       {max(a.last for a in answers):.2f}")
    print(f"daemon's CPU, s             {after.user + after.system - before.user - before.system:.2f}")
    for name, values in (
        ("refused", [a.last for a in refused]),
        ("served", [a.last for a in served]),
        (f"/livez ({len(beats)})", beats),
    ):
        print(f"{name:27} p50 {share(values, 0.5)} ms, p99 {share(values, 0.99)} ms, most {share(values, 1)} ms")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
