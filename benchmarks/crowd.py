"""Overload: many requests to one model at the same moment, more than the queue takes, while /livez is polled.

    python benchmarks/crowd.py [--requests 1000] [--queue 64] [--parallel 8] [--connect used|late] [--rounds 1]

Starts a daemon with a fake model in a temporary folder, and stops it. Everything stays on loopback. The connections are
opened before the requests are sent (`--connect early`), have served another request before (`used`), or are opened
together with the requests (`late`). /livez is polled by another process, over one connection. Prints a table for each
round. Exits 1 when a response is neither complete nor a 503 with Retry-After.
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

HANG_GUARD = 120.0
POLL_INTERVAL = 0.01
"""Seconds between two polls of /livez."""
MODEL = "parrot"


@dataclass
class Result:
    """One response. Times are seconds since the request was sent, or since its connection was opened with it."""

    status: int
    first: float
    last: float
    valid: bool
    """A complete 200, or a 503 with Ollama's message and a Retry-After."""


class Client:
    """One request on a plain non-blocking socket, so that a thousand of them leave the processor to the daemon."""

    def __init__(self, port: int) -> None:
        body = json.dumps({"model": MODEL, "prompt": "a b c", "stream": False})
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        self._request = f"{head}\r\n{body}".encode()
        self._port = port
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self._began = self._first = 0.0
        self._received = b""

    def connect(self) -> None:
        """Begin to connect. The socket is writable when the connection is open."""
        self._began = time.perf_counter()
        self.sock.connect_ex(("127.0.0.1", self._port))

    def send_other_request(self) -> None:
        """Use the connection for another request."""
        self.sock.setblocking(True)
        self.sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert self.sock.recv(65536).startswith(b"HTTP/1.1 200")
        self.sock.setblocking(False)

    def start_clock(self) -> None:
        """Measure from now on; the connection is open already."""
        self._began = time.perf_counter()

    def send(self) -> bool:
        """Send the request. Returns False while the connection is not open."""
        try:
            return self.sock.send(self._request) == len(self._request)
        except (BlockingIOError, BrokenPipeError):
            return False

    def read(self) -> Result | None:
        """Read more of the response. Returns the result when it is complete or the connection has ended."""
        piece = self.sock.recv(65536)
        now = time.perf_counter() - self._began
        self._first = self._first or now
        self._received += piece
        head, _, body = self._received.partition(b"\r\n\r\n")
        headers = dict(header.lower().split(b": ", 1) for header in head.split(b"\r\n")[1:] if b": " in header)
        if piece and len(body) < int(headers.get(b"content-length", b"1000000")):
            return None
        status = int(head.split()[1])
        refused = b"maximum pending requests exceeded" in body and int(headers.get(b"retry-after", b"0")) > 0
        valid = b'"done":true' in body if status == 200 else status == 503 and refused
        return Result(status, self._first, now, valid)


def send_all(port: int, requests: int, connect: str) -> list[Result]:
    """Send every request as fast as one process can, and read the responses."""
    clients = [Client(port) for _ in range(requests)]
    results: list[Result] = []
    deadline = time.monotonic() + HANG_GUARD
    with selectors.DefaultSelector() as selector:
        if connect != "late":
            for client in clients:
                client.connect()
            if connect == "used":
                for client in clients:
                    client.send_other_request()
            time.sleep(1)  # until the daemon has accepted all connections
        for client in clients:
            if connect == "late":
                client.connect()
            else:
                client.start_clock()
            sent = client.send()
            selector.register(client.sock, selectors.EVENT_READ if sent else selectors.EVENT_WRITE, client)
        while len(results) < requests:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{requests - len(results)} requests have no response after {HANG_GUARD:.0f} s")
            results += handle_ready(selector, 1)
    return results


def handle_ready(selector: selectors.BaseSelector, timeout: float) -> Iterator[Result]:
    """Send on connections that have opened, read from those that have data, and yield the results."""
    for key, ready in selector.select(timeout):
        if ready & selectors.EVENT_WRITE:
            if key.data.send():
                selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        elif (result := key.data.read()) is not None:
            selector.unregister(key.fileobj)
            key.data.sock.close()
            yield result


def poll_livez(port: int) -> None:
    """Poll /livez until SIGTERM; print how long each response took, in seconds."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_GUARD)
    took = []
    while not stopped:
        began = time.perf_counter()
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - began)
        assert response.status == 200
        time.sleep(POLL_INTERVAL)
        if len(took) == 1:
            print("started", flush=True)
    print(json.dumps(took))


def run_round(requests: int, queue: int, parallel: int, connect: str) -> bool:
    """Run one round with a daemon of its own, and print its table. Returns True when every response is valid."""
    fakes = {MODEL: {"rate": 100, "tokens": 10, "parallel": parallel}}
    settings = {"runners": {"max_queue": queue}, "logging": {"level": "info"}}
    with tempfile.TemporaryDirectory(prefix="ollmlx-crowd-") as folder:
        daemon = Daemon(Path(folder), fakes=fakes, settings=settings).start()
        port = int(daemon.url.rsplit(":", 1)[1])
        process = psutil.Process(daemon.process.pid)
        try:
            daemon.post("/api/generate", {"model": MODEL, "prompt": "x", "stream": False})
            poller = subprocess.Popen([sys.executable, __file__, "--poll", str(port)], stdout=subprocess.PIPE)
            assert poller.stdout is not None
            poller.stdout.readline()
            before = process.cpu_times()
            results = send_all(port, requests, connect)
            after = process.cpu_times()
            poller.terminate()
            polls = json.loads(poller.communicate(timeout=HANG_GUARD)[0])
        finally:
            daemon.stop()
    invalid = sum(not result.valid for result in results)
    print(f"requests, queue, parallel   {requests}, {queue}, {parallel} (connections {connect})")
    print(f"statuses                    {dict(Counter(result.status for result in results))}, invalid {invalid}")
    print(f"last response after, s      {max(result.last for result in results):.2f}")
    print(f"processor time of daemon, s {after.user + after.system - before.user - before.system:.2f}")
    for name, times in (
        ("refused", [result.last for result in results if result.status == 503]),
        ("served", [result.last for result in results if result.status == 200]),
        (f"/livez ({len(polls)})", polls),
    ):
        print(f"{name:27} p50 {quantile(times, 0.5)} ms, p99 {quantile(times, 0.99)} ms, most {quantile(times, 1)} ms")
    return not invalid


def quantile(values: list[float], part: float) -> str:
    """Return a quantile in milliseconds."""
    found = sorted(values)
    return f"{found[min(len(found) - 1, int(part * len(found)))] * 1e3:.0f}" if found else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--connect", choices=("early", "used", "late"), default="early")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--poll", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.poll:
        poll_livez(arguments.poll)
        return 0
    requests = min(arguments.requests, 4000)
    rounds = [
        run_round(requests, arguments.queue, arguments.parallel, arguments.connect) for _ in range(arguments.rounds)
    ]
    return 0 if all(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
