"""The start of a runner, before it serves: its configuration, its socket, its log, its engine's class."""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, NotFound, OllmlxError, OutOfMemory, StorageError
from ollmlx.plugin.contracts import Engine, import_file
from ollmlx.protocol import PROTOCOL_VERSION, ExitCode, RunnerConfig

MAX_CONFIG_BYTES = 64 * 1024 * 1024

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task works for, as log lines show it."""


class CannotStart(Exception):
    """Ends the runner with exit status `code`. The message becomes the last line on standard error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# -- configuration and socket ----------------------------------------------------------------------------------------


def read_config(stdin: int = 0) -> RunnerConfig:
    """Read the configuration, the first line of standard input, without Python's buffers.

    Raises CannotStart: PARENT_GONE when the input ends first, PROTOCOL when the versions differ, else USAGE.
    """
    line = _read_line(stdin)
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise CannotStart(ExitCode.USAGE, f"the configuration on standard input is not JSON: {error}") from None
    version = raw.get("protocol") if isinstance(raw, dict) else None
    if version != PROTOCOL_VERSION:
        raise CannotStart(
            ExitCode.PROTOCOL,
            f"protocol mismatch: the daemon speaks Runner Protocol {version}, this runner speaks {PROTOCOL_VERSION}",
        )
    try:
        return RunnerConfig.model_validate_json(line)
    except ValidationError as error:
        raise CannotStart(ExitCode.USAGE, f"the configuration is not valid: {first_fault(error)}") from None


def _read_line(stdin: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < MAX_CONFIG_BYTES:
        # A chunk may hold more than the line. The rest is not needed: later only the end of the stream matters.
        chunk = os.read(stdin, 65536)
        if not chunk:
            raise CannotStart(ExitCode.PARENT_GONE, "standard input ended before the configuration: the parent ended")
        pieces += chunk
        line, newline, _ = pieces.partition(b"\n")
        if newline:
            return bytes(line)
    raise CannotStart(ExitCode.USAGE, f"the configuration is longer than {MAX_CONFIG_BYTES} bytes")


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a validation error, without the rejected input, which may be a prompt."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else str(first["msg"])


def listening_socket(fd: int) -> socket.socket:
    """Return the inherited socket, already bound and listening. Raises CannotStart for any other descriptor."""
    try:
        inherited = socket.socket(fileno=fd)
        listening = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotStart(ExitCode.USAGE, f"--fd {fd} is not an open socket: {error}") from None
    if not listening:
        raise CannotStart(ExitCode.USAGE, f"--fd {fd} is not a listening socket")
    inherited.setblocking(False)
    inherited.set_inheritable(False)
    return inherited


# -- log -------------------------------------------------------------------------------------------------------------


class _OneLine(logging.Formatter):
    """Escapes line ends, so that a request's text cannot forge a log line. Tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


def start_logging(level: str) -> None:
    """Send the log of the whole process to standard error at `level` (debug, info, warning, error).

    A line is `LEVEL [request id] logger: text`. The daemon adds the time and the runner's name.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s [%(request_id)s] %(name)s: %(message)s"))
    handler.addFilter(_with_request_id)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for noisy in ("asyncio", "aiohttp", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


# -- engine ----------------------------------------------------------------------------------------------------------


def import_engine(spec: str) -> Engine:
    """Return a new engine of the class `package.module:Class` or `/path/file.py:Class`. Slow: call it in a thread."""
    module_name, colon, class_name = spec.rpartition(":")
    if not colon or not module_name or not class_name:
        raise CannotStart(ExitCode.USAGE, f"--engine {spec!r} is not of the form package.module:Class")
    try:
        module = import_file(Path(module_name)) if "/" in module_name else importlib.import_module(module_name)
        factory = getattr(module, class_name)
    except (ImportError, AttributeError, OSError) as error:
        raise CannotStart(ExitCode.USAGE, f"cannot import the engine {spec}: {error}") from error
    return cast(Engine, factory())


def load_failure(error: Exception) -> CannotStart:
    """Return the exit for a failed load. Its status tells the daemon whether a retry can help."""
    if isinstance(error, CannotStart):
        return error
    if isinstance(error, OutOfMemory | MemoryError):
        return CannotStart(ExitCode.OUT_OF_MEMORY, f"out of memory: {_explained(error)}")
    if isinstance(error, InvalidRequest | NotFound | StorageError):
        return CannotStart(ExitCode.BAD_MODEL, f"bad model: {_explained(error)}")
    return CannotStart(ExitCode.INTERNAL, f"cannot load the model: {_explained(error)}")


def _explained(error: Exception) -> str:
    if not isinstance(error, OllmlxError):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = f" ({error.hint})" if error.hint else ""
    code = f" [{error.code}]" if error.code else ""
    return f"{error.message}{hint}{code}"
