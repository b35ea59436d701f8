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
from ollmlx.web.context import CURRENT

if TYPE_CHECKING:
    from ollmlx.settings import Settings

LOG_FILE = "daemon.log"  # in the folder `logs` of the state folder
LOG_BYTES = 8 * 1024 * 1024
LOG_KEPT = 3

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def configure(settings: Settings, stream: TextIO) -> list[logging.Handler]:
    """Send everything the daemon logs to `stream`, and to the file when the settings say so. Returns the handlers."""
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
        handler.addFilter(_is_told)
        root.addHandler(handler)
    return handlers


def release(handlers: list[logging.Handler]) -> None:
    """Close what `configure` opened."""
    root = logging.getLogger()
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()


def _is_told(record: logging.LogRecord) -> bool:
    """Ours and our plugins' lines; of libraries, what somebody should look at."""
    return record.levelno >= logging.WARNING or record.name.startswith("ollmlx")


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


class ConsoleLines(logging.Formatter):
    """`09:12:44 INFO  message request=…`; control characters are shown, never sent to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        request_id = _request_id(record)
        suffix = f" request={request_id}" if request_id else ""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{clock} {record.levelname:<7} {record.getMessage().translate(_CONTROL)}{suffix}"
        return line if record.exc_info is None else f"{line}{os.linesep}{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """One JSON object a line; the figures of a request's summary are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id(record):
            told["request"] = request_id
        if runner := getattr(record, "runner", None):
            told["runner"] = runner
        told |= getattr(record, "fields", {})
        if record.exc_info is not None:
            told["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(told, default=str).decode()


def _request_id(record: logging.LogRecord) -> str:
    """The request that a line says it is about, or that the running task works for; none once that was answered (a
    runner outlives who started it)."""
    stated: str | None = getattr(record, "request", None)
    if stated is not None:
        return stated
    exchange = CURRENT.get()
    return exchange.id if exchange is not None and not exchange.over else ""
