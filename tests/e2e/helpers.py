"""Parts that end-to-end tests share: prompts for fake models, processes, threads that stream, raw connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import psutil

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import HANG_GUARD

ENDLESS = "fake:tokens=100000 fake:rate=20 go"
BREAKS = "fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go"
CALL = 'fake:tool=weather fake:tool_args={"city":"Paris"} go'
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city", "parameters": CITY},
}


def user(text: str) -> list[dict[str, str]]:
    """Return a conversation of one user's turn."""
    return [{"role": "user", "content": text}]


def family(server: Daemon) -> list[psutil.Process]:
    """Return the daemon's processes: its runners and its guardian."""
    return psutil.Process(server.process.pid).children(recursive=True)


def command(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line, none when it has just exited."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def gone(process: psutil.Process | int) -> bool:
    """Return True when a process has exited."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return not found.is_running() or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(processes: list[psutil.Process]) -> None:
    """Wait until all processes have exited."""
    wait_until(lambda: all(map(gone, processes)), because=f"no orphan of {processes}")


@contextmanager
def asking(server: Daemon, model: str, prompt: str = "a b c", **more: Any) -> Iterator[list[str]]:
    """Stream from `/api/generate` in a thread; the list grows by each line, and by the error that ends the stream."""
    arrived: list[str] = []

    def ask() -> None:
        try:
            body = {"model": model, "prompt": prompt, **more}
            with httpx2.stream("POST", f"{server.url}/api/generate", json=body, timeout=120) as answer:
                arrived.extend(answer.iter_lines())
        except httpx2.HTTPError as error:
            arrived.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield arrived
    finally:
        thread.join(HANG_GUARD)
        assert not thread.is_alive()


def connected(server: Daemon) -> socket.socket:
    """Return a connection to the daemon."""
    host, _, port = server.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=HANG_GUARD)


def sent(server: Daemon, path: str, body: dict[str, Any], **headers: str) -> socket.socket:
    """Return the connection of a POST request whose answer nothing has read."""
    data = json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {len(data)}\r\n\r\n"
    connection = connected(server)
    connection.sendall(head.encode() + data)
    return connection
