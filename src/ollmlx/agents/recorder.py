"""A recorder between an agent and the daemon: passes requests and answers on unchanged, and keeps a copy of each."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from ollmlx.text.addresses import Address

PIECE = 64 * 1024
SHOWN = 300
TEXT_EVENTS = (None, "content_block_delta", "response.output_text.delta")
NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})
"""Headers that belong to one connection."""


@dataclass
class RecordedCall:
    """One request and its answer; `status` is 0 until the answer begins."""

    method: str
    path: str
    request: bytes
    status: int = 0
    answer: bytearray = field(default_factory=bytearray)

    def message(self) -> str:
        """Return the message of an answer that is an error, in any dialect."""
        try:
            error = json.loads(bytes(self.answer))["error"]
        except (ValueError, KeyError, TypeError):
            return bytes(self.answer[:SHOWN]).decode("utf-8", "replace")
        return str(error.get("message", error) if isinstance(error, dict) else error)

    def words(self) -> str:
        """Return the text of a streamed answer, in OpenAI's and Anthropic's dialects."""
        return "".join(_words(line[5:]) for line in bytes(self.answer).splitlines() if line.startswith(b"data:"))


def _words(record: bytes) -> str:
    try:
        event = json.loads(record)
    except ValueError:  # [DONE]
        return ""
    delta = (
        event.get("delta") if event.get("type") in (None, "content_block_delta", "response.output_text.delta") else ""
    )
    if isinstance(delta, dict):
        return str(delta.get("text", ""))
    if isinstance(delta, str):
        return delta
    return "".join(str(choice.get("delta", {}).get("content") or "") for choice in event.get("choices", ()))


class Recorder:
    """Listens on a free port of the loopback interface while it is used as a context manager."""

    def __init__(self, daemon: Address) -> None:
        self.calls: list[RecordedCall] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(daemon, self.calls))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="recorder", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(daemon: Address, calls: list[RecordedCall]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = RecordedCall(self.command, self.path, content)
            calls.append(call)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
            kind = http.client.HTTPSConnection if daemon.scheme == "https" else http.client.HTTPConnection
            connection = kind(daemon.dialled, daemon.port)
            # An agent may leave at any time; then nothing is left to answer.
            with suppress(ConnectionError, http.client.HTTPException):
                try:
                    connection.request(self.command, daemon.path + self.path, content or None, kept)
                    self._answer(connection.getresponse(), call)
                finally:
                    connection.close()
                return
            self.close_connection = True

        def _answer(self, answer: http.client.HTTPResponse, call: RecordedCall) -> None:
            """Send the answer piece by piece, as it arrives, and close the connection behind it."""
            call.status = answer.status
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in NOT_PASSED_ON:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            while self.command != "HEAD" and (piece := answer.read1(PIECE)):
                call.answer += piece
                self.wfile.write(piece)
                self.wfile.flush()

        do_GET = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    return Handler
