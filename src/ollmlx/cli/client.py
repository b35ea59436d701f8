"""The command line's HTTP client: one connection a call, JSON in, JSON or NDJSON out.

The standard library's client, because importing a larger one costs more time than the call (70 ms against 170 ms).
It reads no proxy variables, so none can capture a call to this machine.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from ollmlx.errors import Forbidden, InvalidRequest, NotFound, OllmlxError, Unauthorized
from ollmlx.text.addresses import Address

CONNECT_TIMEOUT = 10  # seconds; answers themselves may take as long as they take
UPLOAD_CHUNK = 1024 * 1024

Json = dict[str, Any]

_KINDS: dict[int, type[OllmlxError]] = {400: InvalidRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound}


class NotRunning(OllmlxError):
    """No daemon answers at the address."""


class Client:
    """Calls one daemon. Every method raises OllmlxError: NotRunning, or the daemon's own words."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self.address = address
        self.key = key

    def alive(self) -> bool:
        """Whether something answers `HEAD /` with 200."""
        try:
            with self._exchange("HEAD", "/", None, timeout=CONNECT_TIMEOUT) as response:
                return response.status == 200
        except OllmlxError:
            return False

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self.call("GET", path)

    def post(self, path: str, body: Json) -> Any:
        """The JSON that answers a JSON body; None for an empty answer."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Json | None = None) -> Any:
        """One exchange: the answer's JSON, or None when it has no body."""
        with self._exchange(method, path, body) as response:
            text = response.read()
            self._raise_for_status(response, text)
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._stranger(f"no JSON from {path}") from error

    def stream(self, path: str, body: Json, *, ended: Callable[[Json], bool]) -> Iterator[Json]:
        """The objects of an NDJSON answer, as they come. Closing the generator cancels the request.

        `ended` knows the last object; a stream that stops before it raises, as does a line `{"error": …}`.
        """
        last = False
        with self._exchange("POST", path, body) as response:
            if response.status >= 400:
                self._raise_for_status(response, response.read())
            while line := response.readline():
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise self._stranger(f"no JSON from {path}") from error
                if "error" in record:
                    raise _error(OllmlxError, record)
                last = ended(record)
                yield record
        if not last:
            raise OllmlxError(f"{self.address} closed the connection in the middle of its answer", hint="ollmlx logs")

    def exists(self, path: str) -> bool:
        """Whether `HEAD path` says 200."""
        with self._exchange("HEAD", path, None) as response:
            if response.status not in (200, 404):
                self._raise_for_status(response, b"")
            return response.status == 200

    def upload(self, path: str, file: IO[bytes], size: int, sent: Callable[[int], None]) -> None:
        """POST a file; `sent` is told the bytes of each piece as it leaves."""

        def pieces() -> Iterator[bytes]:
            while piece := file.read(UPLOAD_CHUNK):
                yield piece
                sent(len(piece))

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._exchange("POST", path, pieces(), headers=headers) as response:
            self._raise_for_status(response, response.read())

    @contextmanager
    def _exchange(
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
                # A daemon that refuses in the middle of an upload says why in its answer.
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
            hint = "ollmlx serve" if self.address.is_local else "check OLLAMA_HOST and that the daemon runs there"
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
        raise self._stranger(f"{response.status} {response.reason}")

    def _stranger(self, seen: str) -> OllmlxError:
        """What answers is not ollmlx, nor anything that speaks like it; or it is, and its routes are switched off."""
        if self._is_ours():
            told = f"the daemon at {self.address} does not serve Ollama's API: its plugin 'ollama_api' is off"
            return OllmlxError(told, code="PLG006", hint="ollmlx doctor server")
        told = f"what answers at {self.address} does not speak Ollama's API ({seen})"
        return OllmlxError(told, code="NET004", hint="ollmlx doctor server")

    def _is_ours(self) -> bool:
        """Whether it describes itself as a daemon of ours does, on a route that is not Ollama's."""
        try:
            with self._exchange("GET", "/api/daemon", None, timeout=CONNECT_TIMEOUT) as response:
                told = json.loads(response.read())
        except (OllmlxError, ValueError):
            return False
        return isinstance(told, dict) and "protocol" in told


def _error(kind: type[OllmlxError], record: Json) -> OllmlxError:
    said = record["error"]
    detail = said if isinstance(said, dict) else record
    message = said if isinstance(said, str) else str(detail.get("message", said))
    return kind(message, code=_text(detail.get("code")), hint=_text(detail.get("hint")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
