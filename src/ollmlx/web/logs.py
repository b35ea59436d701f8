"""The daemon's log: lines for people or machines on standard error, and a rotating file for `ollmlx logs`."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import orjson

from ollmlx.errors import StorageError
from ollmlx.web.context import CURRENT, RequestContext

if TYPE_CHECKING:
    from ollmlx.settings import Settings

LOG_FILE = "daemon.log"  # in the folder `logs` of the state folder
LOG_BYTES = 8 * 1024 * 1024
LOG_KEPT = 3
QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/api/ps"})
"""Polled every few seconds by monitors and by `ollmlx ps --watch`: their requests are logged at debug level."""

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}

access_logger = logging.getLogger("ollmlx.access")


def configure(settings: Settings, stream: TextIO) -> list[logging.Handler]:
    """Send the log to `stream`, and to a file if the settings ask for one. Returns the handlers."""
    formatter: logging.Formatter = JsonLines() if settings.logging.format == "json" else ConsoleLines()
    console = logging.StreamHandler(stream)
    console.setFormatter(formatter)
    handlers: list[logging.Handler] = [console]
    if settings.logging.file:
        file = _file(settings.state_folder / "logs")
        file.setFormatter(JsonLines())
        handlers.append(file)
    root = logging.getLogger()  # plugins log under their own names
    root.setLevel(settings.logging.level.upper())
    for handler in handlers:
        handler.addFilter(_is_shown)
        root.addHandler(handler)
    return handlers


def release(handlers: list[logging.Handler]) -> None:
    """Remove and close the handlers that `configure` returned."""
    root = logging.getLogger()
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()


def log_request(context: RequestContext) -> None:
    """Log one line for a request that has ended. JSON logs get the figures as fields of their own."""
    level = logging.INFO
    if context.path in QUIET_PATHS and context.status < 500:
        level = logging.DEBUG
    elif context.status >= 500:
        level = logging.WARNING
    if not access_logger.isEnabledFor(level):
        return
    fields = _request_fields(context)
    first = ("method", "path", "status")
    others = " ".join(f"{name}={value}" for name, value in fields.items() if name not in first)
    access_logger.log(level, "%s %s %d %s", *(fields[name] for name in first), others, extra={"fields": fields})


def _request_fields(context: RequestContext) -> dict[str, str | int | float]:
    """Return the figures of a request: times in milliseconds, counts in tokens, and no text of prompt or answer."""
    fields: dict[str, str | int | float] = {
        "method": context.method,
        "path": context.path,
        "status": context.status,
        "ms": _milliseconds(context.total_ns),
        "client": context.client,
    }
    if context.model:
        fields["model"] = context.model
    if context.admitted is not None:
        fields["queue_ms"] = _milliseconds(context.admitted.queue_ns)
        fields["load_ms"] = _milliseconds(context.admitted.load_ns)
    if context.first_ns:
        fields["first_ms"] = _milliseconds(context.first_ns)
    if (done := context.done) is not None:
        fields |= {
            "prefill_ms": _milliseconds(done.prefill_ns),
            "decode_ms": _milliseconds(done.decode_ns),
            "prompt_tokens": done.prompt_tokens,
            "cached_tokens": done.cached_tokens,
            "tokens": done.generated_tokens,
            "finish": done.reason,
        }
    if context.embedded is not None:
        fields["prompt_tokens"] = context.embedded
    if context.dropped:
        fields["dropped_tokens"] = context.dropped
    if context.error:
        fields["error"] = context.error
    if context.code:
        fields["code"] = context.code
    return fields


class ConsoleLines(logging.Formatter):
    """Formats `09:12:44 INFO    message request=…`. Control characters are escaped, so that no terminal obeys them."""

    def format(self, record: logging.LogRecord) -> str:
        request_id = _request_id(record)
        suffix = f" request={request_id}" if request_id else ""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{clock} {record.levelname:<7} {record.getMessage().translate(_CONTROL)}{suffix}"
        return line if record.exc_info is None else f"{line}{os.linesep}{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """Formats one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id(record):
            line["request"] = request_id
        if runner := getattr(record, "runner", None):
            line["runner"] = runner
        line |= getattr(record, "fields", {})
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _is_shown(record: logging.LogRecord) -> bool:
    """Return True for lines of ollmlx and its plugins, and for warnings and errors of libraries."""
    return record.levelno >= logging.WARNING or record.name.startswith("ollmlx")


def _request_id(record: logging.LogRecord) -> str:
    """Return the request that a line is about: the one it names, else the one that the running task serves.

    A task can outlive the request in whose context it was started; its lines then belong to no request.
    """
    named: str | None = getattr(record, "request", None)
    if named is not None:
        return named
    context = CURRENT.get()
    return context.id if context is not None and not context.ended else ""


def _file(folder: Path) -> RotatingFileHandler:
    path = folder / LOG_FILE
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # `mode` is not for parents
        folder.mkdir(exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        return RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_KEPT, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot use the state folder {folder.parent}: {error.strerror}",
            code="STO009",
            hint="ollmlx doctor storage",
        ) from error


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 1)
