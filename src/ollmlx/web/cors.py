"""Answers for browsers: may this page call us, and what may it read of the answer. Pure."""

from __future__ import annotations

MAX_AGE = b"43200"  # seconds a browser may remember a preflight
METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
REQUEST_HEADERS = (
    "authorization",
    "content-type",
    "user-agent",
    "accept",
    "x-requested-with",
    "x-request-id",
    "x-priority",
    "x-api-key",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "openai-beta",
)
EXPOSED = b"X-Request-ID, Retry-After, X-Ollmlx-Queue-Ms, X-Ollmlx-Load-Ms, X-Ollmlx-Dropped-Tokens"

Headers = list[tuple[bytes, bytes]]


def answer_headers(origin: str) -> Headers:
    """The headers of any answer to a page of an allowed origin."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight_headers(origin: str, asked: str, private_network: bool) -> Headers:
    """The headers of the answer to a preflight. `asked` is what the page wants to send."""
    wanted = [name.strip().lower() for name in asked.split(",")]
    extra = [name for name in wanted if name.startswith("x-stainless-") and name.replace("-", "").isalnum()]
    headers = [
        *answer_headers(origin),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", ", ".join([*REQUEST_HEADERS, *extra]).encode()),
        (b"access-control-max-age", MAX_AGE),
    ]
    if private_network:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers
