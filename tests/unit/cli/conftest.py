"""A scripted daemon, and the command line that uses it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ollmlx.cli.client import Client
from ollmlx.cli.main import main
from ollmlx.text.addresses import Address

Json = dict[str, Any]


@dataclass
class Request:
    """A request. `body`: the parsed JSON, or bytes."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class Reply:
    """An answer: a status and JSON, or NDJSON lines. `cut`: the connection breaks before its end."""

    status: int = 200
    json: Any = None
    lines: list[Json] | None = None
    cut: bool = False


@dataclass
class ScriptedDaemon:
    """Answers each (method, path) from a script: one reply after the other, the last one again and again."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    script: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)

    def says(self, method: str, path: str, json: Any = None, *, status: int = 200) -> None:
        self.script.setdefault((method, path), []).append(Reply(status, json))

    def streams(self, path: str, *lines: Json, cut: bool = False) -> None:
        self.script.setdefault(("POST", path), []).append(Reply(lines=list(lines), cut=cut))

    def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        replies = self.script.get((request.method, request.path.partition("?")[0]))
        if not replies:
            return Reply(404, {"error": f"nothing scripted for {request.method} {request.path}"})
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies of the requests for a path, in order."""
        return [request.body for request in self.requests if request.path == path]


def _handler(daemon: ScriptedDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_json = self.headers.get("Content-Type") == "application/json"
            body = json.loads(raw) if is_json and raw else raw
            reply = daemon.reply(Request(self.command, self.path, body, dict(self.headers)))
            if reply.lines is not None:
                self._stream(reply)
                return
            text = json.dumps(reply.json).encode() if reply.json is not None else b""
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def _stream(self, reply: Reply) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in reply.lines or ():
                piece = json.dumps(line).encode() + b"\n"
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if reply.cut:
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon at OLLAMA_HOST, without any settings; standard input is empty."""
    daemon = ScriptedDaemon()
    daemon.says("HEAD", "/")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(daemon))
    daemon.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.002})
    thread.start()
    monkeypatch.setenv("OLLAMA_HOST", daemon.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.chdir(tmp_path)
    yield daemon
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(daemon: ScriptedDaemon) -> Client:
    return Client(Address.parse(daemon.url))


@dataclass
class Outcome:
    """The result of a command line."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Outcome]


@pytest.fixture
def ollmlx(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs a command line against the scripted daemon."""

    def run(*argv: str) -> Outcome:
        try:
            code = main(list(argv))
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
