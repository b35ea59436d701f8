"""One line for each request, when it is over."""

from __future__ import annotations

import logging

from ollmlx.web.context import Exchange

logger = logging.getLogger("ollmlx.access")

QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/api/ps"})
"""Asked every few seconds, by machines and by `ollmlx ps --watch`: logged at debug."""


class AccessLog:
    """Writes the summary line. The figures go along as the record's attribute `fields`, for JSON logs."""

    def __call__(self, exchange: Exchange) -> None:
        level = logging.INFO
        if exchange.path in QUIET_PATHS and exchange.status < 500:
            level = logging.DEBUG
        elif exchange.status >= 500:
            level = logging.WARNING
        if not logger.isEnabledFor(level):
            return
        found = fields(exchange)
        told = " ".join(f"{name}={value}" for name, value in found.items() if name not in ("method", "path", "status"))
        logger.log(level, "%s %s %d %s", exchange.method, exchange.path, exchange.status, told, extra={"fields": found})


def fields(exchange: Exchange) -> dict[str, str | int | float]:
    """What the line tells: times in milliseconds, counts in tokens; nothing of what was said."""
    found: dict[str, str | int | float] = {
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "ms": _ms(exchange.total_ns),
        "client": exchange.client,
    }
    if exchange.model:
        found["model"] = exchange.model
    if exchange.admitted is not None:
        found["queue_ms"] = _ms(exchange.admitted.queue_ns)
        found["load_ms"] = _ms(exchange.admitted.load_ns)
    if exchange.first_ns:
        found["first_ms"] = _ms(exchange.first_ns)
    if (done := exchange.done) is not None:
        found |= {
            "prefill_ms": _ms(done.prefill_ns),
            "decode_ms": _ms(done.decode_ns),
            "prompt_tokens": done.prompt_tokens,
            "cached_tokens": done.cached_tokens,
            "tokens": done.generated_tokens,
            "finish": done.reason,
        }
    if exchange.embedded is not None:
        found["prompt_tokens"] = exchange.embedded
    if exchange.dropped:
        found["dropped_tokens"] = exchange.dropped
    if exchange.error:
        found["error"] = exchange.error
    if exchange.code:
        found["code"] = exchange.code
    return found


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 1)
