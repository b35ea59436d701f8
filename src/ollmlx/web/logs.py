"""The daemon's log: lines for people or machines on standard error, and a rotating file for `ollmlx logs`."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

import orjson

from ollmlx.settings import Settings
from ollmlx.settings.files import private_file
from ollmlx.text.controls import escape_json, escape_line, escape_text
from ollmlx.web.context import CURRENT, RequestContext

LOG_FILE = "daemon.log"  # in the folder `logs` of the state folder
LOG_BYTES = 8 * 1024 * 1024
LOG_KEPT = 3
LONGEST_MESSAGE = 8192
"""Characters of a line's message: what a client sends must not push the lines of others out of the log."""
QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/api/ps"}) | {
    f"/api/daemon{rest}" for rest in ("", "/log", "/requests", "/history")
}
"""Polled every few seconds by monitors, by `ollmlx ps --watch` and by the web page: logged at debug level."""

access_logger = logging.getLogger("ollmlx.access")
audit_logger = logging.getLogger("ollmlx.audit")


@contextmanager
def logging_to(stream: TextIO, settings: Settings) -> Iterator[None]:
    """Send the log to `stream`, and to a file if the settings ask for one, until the block ends."""
    handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    handlers[0].setFormatter(JsonLines() if settings.logging.format == "json" else ConsoleLines())
    if settings.logging.file:
        handlers.append(_file(settings.state_folder))
    root = logging.getLogger()  # plugins log under their own names
    level = root.level
    root.setLevel(settings.logging.level.upper())
    for handler in handlers:
        handler.addFilter(_is_shown)
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
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


def audit_request(context: RequestContext) -> None:
    """Log one line for a request that changed the daemon or its models, or that had no valid key."""
    act = "refused key" if context.error == "unauthorized" else context.act
    if act:
        fields = {"act": act, "model": context.model, "client": context.client, "status": context.status}
        line = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
        audit_logger.info("audit: %s", line, extra={"fields": fields})


def _request_fields(context: RequestContext) -> dict[str, str | int | float]:
    """Return the figures of a request: times in milliseconds, counts in tokens, and no text of prompt or answer."""
    admitted, done = context.admitted, context.done
    found: dict[str, str | int | float | None] = {
        "method": context.method,
        "path": context.path,
        "status": context.status,
        "ms": _milliseconds(context.total_ns),
        "client": context.client,
        "model": context.model or None,
        "queue_ms": _milliseconds(admitted.queue_ns) if admitted else None,
        "load_ms": _milliseconds(admitted.load_ns) if admitted else None,
        "first_ms": _milliseconds(context.first_ns) if context.first_ns else None,
        "prefill_ms": _milliseconds(done.prefill_ns) if done else None,
        "decode_ms": _milliseconds(done.decode_ns) if done else None,
        "prompt_tokens": done.prompt_tokens if done else context.embedded,
        "cached_tokens": done.cached_tokens if done else None,
        "missed": context.missed[0] if context.missed else None,
        "tokens": done.generated_tokens if done else None,
        "finish": done.reason if done else None,
        "dropped_tokens": context.dropped or None,
        "error": context.error or None,
        "code": context.code or None,
    }
    return {name: value for name, value in found.items() if value is not None}


class ConsoleLines(logging.Formatter):
    """Formats `09:12:44 INFO    message request=…`. Control characters are escaped, so that no terminal obeys them."""

    def format(self, record: logging.LogRecord) -> str:
        request_id = _request_id(record)
        suffix = f" request={request_id}" if request_id else ""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{clock} {record.levelname:<7} {escape_line(_message(record))}{suffix}"
        if record.exc_info is None:
            return line
        # indented: a line within an exception's message cannot pass for a line of the log
        return f"{line}\n{textwrap.indent(escape_text(self.formatException(record.exc_info)), '  ')}"


class JsonLines(logging.Formatter):
    """Formats one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if request_id := _request_id(record):
            line["request"] = request_id
        if runner := getattr(record, "runner", None):
            line["runner"] = runner
        line |= getattr(record, "fields", {})
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return escape_json(orjson.dumps(line, default=str).decode())


class LogFile(RotatingFileHandler):
    """The log file. The reason why it cannot be written is told once, without a traceback for each line."""

    _told: str | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self._told != (reason := str(error.strerror)):
            self._told = reason
            hint = "ollmlx doctor storage"
            sys.stderr.write(f"the log file {self.baseFilename} cannot be written: {reason} ({hint})\n")


def _is_shown(record: logging.LogRecord) -> bool:
    """Return True for lines of ollmlx and its plugins, and for warnings and errors of libraries."""
    return record.levelno >= logging.WARNING or record.name.startswith("ollmlx")


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}… (shortened)"


def _request_id(record: logging.LogRecord) -> str:
    """Return the request that a line is about: the one it names, else the one that the running task serves.

    A task can outlive the request in whose context it was started; its lines then belong to no request.
    """
    named: str | None = getattr(record, "request", None)
    if named is not None:
        return named
    context = CURRENT.get()
    return context.id if context is not None and not context.ended else ""


def _file(state: Path) -> RotatingFileHandler:
    path = private_file(state, f"logs/{LOG_FILE}")
    handler = LogFile(path, maxBytes=LOG_BYTES, backupCount=LOG_KEPT, encoding="utf-8")
    handler.setFormatter(JsonLines())
    return handler


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 1)
