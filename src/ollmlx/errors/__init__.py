"""Exceptions with an explanation; in its modules, findings with their codes and the masking of secrets.

An `OllmlxError` becomes an answer to the client: it carries a sentence, perhaps the next step, and perhaps a finding
code with a runbook. Any other exception is a bug and keeps its traceback. Each kind has its HTTP status.

This package imports nothing else of ollmlx; everything may import it.
"""

from __future__ import annotations

from typing import ClassVar


class OllmlxError(Exception):
    """A failure with an explanation.

    message: one sentence for the user. hint: the next step, often a command. code: a finding code.
    retry_after: seconds after which a retry can succeed, if known; `math.inf` if none ever will.
    """

    kind: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.retry_after = retry_after


class InvalidRequest(OllmlxError):
    """The request is malformed or asks for something impossible. A retry cannot succeed."""

    kind = "invalid"
    status = 400


class Unsupported(InvalidRequest):
    """The model or its backend lacks a capability (`"x" does not support tools`)."""

    kind = "unsupported"


class ContextExceeded(InvalidRequest):
    """The prompt is longer than the context length and may not be truncated.

    excess: the tokens of the prompt, and the most that fit; None when they are not known.
    """

    kind = "context_exceeded"
    excess: tuple[int, int] | None = None


class Unauthorized(OllmlxError):
    """The API key is missing or wrong."""

    kind = "unauthorized"
    status = 401


class Forbidden(OllmlxError):
    """The request is valid and not permitted (origin, host, read-only storage, remote code)."""

    kind = "forbidden"
    status = 403


class NotFound(OllmlxError):
    """The model, blob or runner does not exist."""

    kind = "not_found"
    status = 404


class Conflict(OllmlxError):
    """The request contradicts the present state (two models claim one folder, a model in use)."""

    kind = "conflict"
    status = 409


class TooLarge(OllmlxError):
    """The body is larger than the server accepts."""

    kind = "too_large"
    status = 413


class UnsupportedEncoding(OllmlxError):
    """The body is compressed in a way the server does not read."""

    kind = "unsupported_encoding"
    status = 415


class BodyTimeout(OllmlxError):
    """The request body did not arrive in time."""

    kind = "body_timeout"
    status = 408


class Busy(OllmlxError):
    """The queue is full, or the daemon is draining. A later retry can succeed."""

    kind = "busy"
    status = 503


class LimitReached(OllmlxError):
    """An API key has used what it may. `retry_after` says when it may go on."""

    kind = "limit_reached"
    status = 429


class Cancelled(OllmlxError):
    """The client disconnected before its request was served."""

    kind = "cancelled"
    status = 499


class Timeout(OllmlxError):
    """A time limit passed: of the load, of the first token, or of the whole request."""

    kind = "timeout"
    status = 504


class OutOfMemory(OllmlxError):
    """The model, or the request's KV cache, does not fit the memory budget. The message has the arithmetic."""

    kind = "out_of_memory"


class RunnerFailed(OllmlxError):
    """A runner could not start, exited, or broke the protocol. The message has the cause and the last output."""

    kind = "runner_failed"


class RunnerUnavailable(RunnerFailed):
    """The runner failed too often. None is started before `retry_after`."""

    kind = "runner_unavailable"
    status = 503


class StorageError(OllmlxError):
    """A store could not read or write its files (disk full, read-only, damaged files)."""

    kind = "storage"


class UpstreamError(OllmlxError):
    """A hub, index or registry refused or failed."""

    kind = "upstream"


class ConfigError(OllmlxError):
    """The settings cannot be used. The message lists every fault with its source."""

    kind = "config"


class PluginError(OllmlxError):
    """A plugin broke its contract. The message names the plugin."""

    kind = "plugin"


def _subclasses(cls: type[OllmlxError]) -> list[type[OllmlxError]]:
    found = [cls]
    for child in cls.__subclasses__():
        found += _subclasses(child)
    return found


KINDS: dict[str, type[OllmlxError]] = {cls.kind: cls for cls in _subclasses(OllmlxError)}
STATUS: dict[str, int] = {kind: cls.status for kind, cls in KINDS.items()}
"""The HTTP status of each kind of error."""


def from_kind(
    kind: str, message: str, *, code: str | None = None, excess: tuple[int, int] | None = None
) -> OllmlxError:
    """The exception for an error from the Runner Protocol. An unknown kind becomes RunnerFailed."""
    error = KINDS.get(kind, RunnerFailed)(message, code=code)
    if isinstance(error, ContextExceeded):
        error.excess = excess
    return error
