"""A small HTTP server on the loopback interface, in a thread, that records its requests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


@dataclass
class Answer:
    """The answer of a server. `cut`: close the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass(frozen=True)
class Asked:
    """One request, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Served:
    """A running server; `answer` decides. Close it, or use it as a context manager."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                outer.asked.append(asked)
                found = answer(asked)
                self.send_response(found.status)
                if "Transfer-Encoding" not in found.headers:
                    self.send_header("Content-Length", str(len(found.body)))
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(found.body if found.cut is None else found.body[: found.cut])
                if found.cut is not None:
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.002}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Faults:
    """Faults that a test causes.

    `cuts`: the bytes after which the next large files end. `spoil`: wrong content. `page`: it is sent in place of a
    file or manifest. `statuses`: the next answers for large files. `elsewhere`: the target of redirects. `realm`: the
    address of the login in challenges.
    """

    cuts: list[int] = field(default_factory=list)
    spoil: bool = False
    page: bytes | None = None
    statuses: list[int] = field(default_factory=list)
    elsewhere: str = ""
    realm: str = ""


class TwoHosts:
    """A server that redirects to a second host for large files. A context manager."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.front = Served(self.answer)
        self.store = Served(self.large_file)

    def answer(self, asked: Asked) -> Answer:
        """The answer of the first host."""
        raise NotImplementedError

    def content(self, digest: str) -> bytes | None:
        """A large file's content."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return self.front.url

    @property
    def store_url(self) -> str:
        """The second host under another name: credentials are sent to one name only."""
        return self.store.url.replace("127.0.0.1", "localhost")

    def location(self, digest: str) -> str:
        """The address that the first host redirects to for a large file."""
        return self.faults.elsewhere or f"{self.store_url}/{digest}?signature=abc"

    def large_requests(self) -> list[Asked]:
        """The requests for files that the second host got."""
        return [asked for asked in self.store.asked if asked.method == "GET"]

    def large_file(self, asked: Asked) -> Answer:
        """The answer of the second host."""
        digest = urlsplit(asked.path).path.strip("/")
        data = self.content(digest)
        if data is None:
            return Answer(404)
        if self.faults.statuses:
            return Answer(self.faults.statuses.pop(0))
        if self.faults.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        answer = part(data, asked, {"ETag": f'"{digest}"'})
        if self.faults.cuts and asked.method == "GET":
            answer.cut = self.faults.cuts.pop(0)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.front.close()
        self.store.close()


def part(body: bytes, asked: Asked, headers: dict[str, str]) -> Answer:
    """The whole of a file, or the range that was asked for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if match is None:
        return Answer(200, body, {**headers, "Accept-Ranges": "bytes"})
    begin, end = int(match[1]), int(match[2] or len(body) - 1)
    if begin >= len(body):
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(body)}"})
    content = {"Content-Range": f"bytes {begin}-{end}/{len(body)}"}
    return Answer(206, body[begin : end + 1], {**headers, **content})


def chunked(*lines: object, cut: bool = False) -> Answer:
    """A stream of JSON lines. `cut`: the connection breaks before its end."""
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return Answer(
        200, body if cut else body + b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, len(body) if cut else None
    )


async def no_wait(seconds: float) -> None:
    """A sleep that takes no time."""
