"""The HTTP client of the command line: one connection for each request, JSON in, JSON or NDJSON out.

It uses the client of the standard library, because importing a larger one takes longer than the request (70 ms
against 170 ms). It reads no proxy variables, so that requests to this machine never go through a proxy.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from ollmlx.errors import Forbidden, InvalidRequest, NotFound, OllmlxError, Unauthorized
from ollmlx.text.addresses import Address

CONNECT_TIMEOUT = 10
"""Seconds to connect; an answer may take any time."""
UPLOAD_CHUNK = 1024 * 1024

Json = dict[str, Any]

_KINDS: dict[int, type[OllmlxError]] = {400: InvalidRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound}


def stated(**fields: Any) -> Json:
    """Return the fields of a request that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


class NotRunning(OllmlxError):
    """No daemon answers at the address."""


class Client:
    """Sends requests to one daemon. Every method raises NotRunning, or OllmlxError with the daemon's message."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self.address = address
        self.key = key

    def alive(self) -> bool:
        """Return True if `HEAD /` is answered with 200."""
        try:
            with self._request("HEAD", "/", None, timeout=CONNECT_TIMEOUT) as response:
                return response.status == 200
        except OllmlxError:
            return False

    def get(self, path: str) -> Any:
        """GET the JSON at a path."""
        return self.call("GET", path)

    def post(self, path: str, body: Json) -> Any:
        """POST a JSON body; return the JSON of the answer, None if it is empty."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Json | None = None) -> Any:
        """Send a request; return the JSON of the answer, None if it is empty."""
        text = self.fetch(path, body, method)
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._not_ollama(f"no JSON from {path}") from error

    def fetch(self, path: str, body: Json | None = None, method: str = "POST") -> bytes:
        """Send a request; return the bytes of the answer."""
        with self._request(method, path, body) as response:
            data = response.read()
            self._raise_for_status(response, data)
        return data

    def stream(self, path: str, body: Json, *, ended: Callable[[Json], bool]) -> Iterator[Json]:
        """Yield the objects of an NDJSON answer as they arrive. Closing the generator cancels the request.

        `ended` returns True for the last object. A stream that ends without it raises, as does a line `{"error": …}`.
        """
        last = False
        with self._request("POST", path, body) as response:
            if response.status >= 400:
                self._raise_for_status(response, response.read())
            while line := response.readline():
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise self._not_ollama(f"no JSON from {path}") from error
                if "error" in record:
                    raise _error(OllmlxError, record)
                last = ended(record)
                yield record
        if not last:
            raise OllmlxError(f"{self.address} closed the connection in the middle of its answer", hint="ollmlx logs")

    def exists(self, path: str) -> bool:
        """Return True if `HEAD path` is answered with 200."""
        with self._request("HEAD", path, None) as response:
            if response.status not in (200, 404):
                self._raise_for_status(response, b"")
            return response.status == 200

    def upload(self, path: str, file: IO[bytes], size: int, sent: Callable[[int], None]) -> None:
        """POST a file. `sent` is called with the number of bytes of each piece."""

        def pieces() -> Iterator[bytes]:
            while piece := file.read(UPLOAD_CHUNK):
                yield piece
                sent(len(piece))

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._request("POST", path, pieces(), headers=headers) as response:
            self._raise_for_status(response, response.read())

    def send_file(self, path: str, fields: dict[str, str], file: Path) -> Iterator[bytes]:
        """POST a form with a file; yield the lines of the answer as they arrive. Raises InvalidRequest without it."""
        mark = secrets.token_hex(16)
        part = f'--{mark}\r\nContent-Disposition: form-data; name="'
        texts = "".join(f'{part}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
        name = quote(file.name)
        head = f'{texts}{part}file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        tail = f"\r\n--{mark}--\r\n".encode()
        try:
            content, size = file.open("rb"), file.stat().st_size
        except OSError as error:
            raise InvalidRequest(f"cannot read {file}: {error.strerror or error}") from error
        headers = {
            "Content-Type": f"multipart/form-data; boundary={mark}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        with content:
            pieces = chain([head], iter(lambda: content.read(UPLOAD_CHUNK), b""), [tail])
            with self._request("POST", path, pieces, headers=headers) as response:
                if response.status >= 400:
                    self._raise_for_status(response, response.read())
                while line := response.readline():
                    yield line

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: Json | Iterator[bytes] | None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(timeout)
        headers = {"Accept": "application/json, application/x-ndjson", **(headers or {})}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
        payload = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                # A daemon that refuses an upload before its end says why in its answer.
                connection.request(method, self.address.path + path, payload, headers)
            yield connection.getresponse()
        except (http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            raise OllmlxError(
                f"{self.address} broke off: {error or type(error).__name__}", hint="ollmlx logs"
            ) from error
        finally:
            connection.close()

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.address.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.address.dialled, self.address.port, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            hint = "ollmlx serve" if self.address.is_local else "check OLLAMA_HOST, and that a daemon runs there"
            raise NotRunning(f"no daemon answers at {self.address} ({reason})", hint=hint) from error
        assert isinstance(connection.sock, socket.socket)
        connection.sock.settimeout(timeout)
        return connection

    def _raise_for_status(self, response: http.client.HTTPResponse, text: bytes) -> None:
        if response.status < 400:
            return
        kind = _KINDS.get(response.status, OllmlxError)
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if isinstance(record, dict) and "error" in record:
            raise _error(kind, record)
        raise self._not_ollama(f"{response.status} {response.reason}")

    def _not_ollama(self, answer: str) -> OllmlxError:
        """Return the error for an answer of another program, or of a daemon whose routes are switched off."""
        if self._is_ollmlx():
            problem = f"the daemon at {self.address} does not serve Ollama's API: its plugin 'ollama_api' is off"
            return OllmlxError(problem, code="PLG006", hint="ollmlx doctor server")
        problem = f"the program at {self.address} does not speak Ollama's API ({answer})"
        return OllmlxError(problem, code="NET004", hint="ollmlx doctor server")

    def _is_ollmlx(self) -> bool:
        """Return True if `/api/daemon`, a route that only ollmlx has, describes a daemon."""
        try:
            with self._request("GET", "/api/daemon", None, timeout=CONNECT_TIMEOUT) as response:
                status = json.loads(response.read())
        except (OllmlxError, ValueError):
            return False
        return isinstance(status, dict) and "protocol" in status


def _error(kind: type[OllmlxError], record: Json) -> OllmlxError:
    error = record["error"]
    detail = error if isinstance(error, dict) else record
    message = error if isinstance(error, str) else str(detail.get("message", error))
    return kind(message, code=_text(detail.get("code")), hint=_text(detail.get("hint")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
