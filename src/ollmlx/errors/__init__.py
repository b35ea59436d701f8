"""Exceptions with an explanation, findings and their codes, and the masking of secrets.

It imports nothing else of ollmlx; everything may import it.
"""

from __future__ import annotations

from ollmlx.errors.exceptions import (
    BodyTimeout,
    Busy,
    Cancelled,
    ConfigError,
    Conflict,
    ContextExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    OllmlxError,
    OutOfMemory,
    PluginError,
    RunnerFailed,
    RunnerUnavailable,
    StorageError,
    Timeout,
    TooLarge,
    Unauthorized,
    Unsupported,
    UnsupportedEncoding,
    UpstreamError,
    from_kind,
)

__all__ = [
    "BodyTimeout",
    "Busy",
    "Cancelled",
    "ConfigError",
    "Conflict",
    "ContextExceeded",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "OllmlxError",
    "OutOfMemory",
    "PluginError",
    "RunnerFailed",
    "RunnerUnavailable",
    "StorageError",
    "Timeout",
    "TooLarge",
    "Unauthorized",
    "Unsupported",
    "UnsupportedEncoding",
    "UpstreamError",
    "from_kind",
]
