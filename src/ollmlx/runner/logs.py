"""Lines on standard error: `LEVEL [request id] logger: text`. The daemon adds the time and the runner's name."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task works for."""


class _OneLine(logging.Formatter):
    """Tracebacks keep their lines; a message of a request cannot forge another line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


def start(level: str) -> None:
    """Send every logger of the process to standard error at `level` (debug, info, warning, error)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s [%(request_id)s] %(name)s: %(message)s"))
    handler.addFilter(_with_request_id)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for noisy in ("asyncio", "aiohttp", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
