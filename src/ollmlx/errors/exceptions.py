"""What can go wrong, as exceptions a person can act on.

`OllmlxError` means "this can be answered": it carries a sentence, the next step, and, where one exists, a diagnostic
code with a runbook. Anything else that is raised is a bug and keeps its traceback. Which HTTP status a kind becomes is
decided in `ollmlx.web.kit.errors` alone.
"""

from __future__ import annotations

from typing import ClassVar


class OllmlxError(Exception):
    """A failure with an explanation.

    message: one sentence for the user. hint: the next step, often a command. code: a runbook in `diagnostics/`.
    retry_after: seconds after which trying again can help, when known; `math.inf` where it never will.
    """

    kind: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.retry_after = retry_after


class InvalidRequest(OllmlxError):
    """The request is malformed or asks for something impossible; repeating it cannot help."""

    kind = "invalid"


class Unsupported(InvalidRequest):
    """The model, or its backend, cannot do what is asked (`"x" does not support tools`)."""

    kind = "unsupported"


class ContextExceeded(InvalidRequest):
    """The prompt is longer than the context length and may not be truncated."""

    kind = "context_exceeded"


class Unauthorized(OllmlxError):
    """No API key, or a wrong one."""

    kind = "unauthorized"


class Forbidden(OllmlxError):
    """The request is understood and refused (origin, host, read-only storage, remote code)."""

    kind = "forbidden"


class NotFound(OllmlxError):
    """There is no such model, blob or runner."""

    kind = "not_found"


class Conflict(OllmlxError):
    """The request contradicts the present state (two models claim one folder, a model in use)."""

    kind = "conflict"


class TooLarge(OllmlxError):
    """The body is larger than the server accepts."""

    kind = "too_large"


class UnsupportedEncoding(OllmlxError):
    """The body is compressed in a way the server does not read."""

    kind = "unsupported_encoding"


class BodyTimeout(OllmlxError):
    """The request body did not arrive in time."""

    kind = "body_timeout"


class Busy(OllmlxError):
    """The queue is full or the daemon is draining; trying again later can help."""

    kind = "busy"


class Cancelled(OllmlxError):
    """The client left before its turn."""

    kind = "cancelled"


class Timeout(OllmlxError):
    """A deadline passed: load, first token, or the whole request."""

    kind = "timeout"


class OutOfMemory(OllmlxError):
    """The model, or the request's KV cache, does not fit the memory budget. The message has the arithmetic."""

    kind = "out_of_memory"


class RunnerFailed(OllmlxError):
    """A runner could not start, died or broke the protocol. The message has the cause and its last words."""

    kind = "runner_failed"


class RunnerUnavailable(RunnerFailed):
    """The runner failed too often: the circuit is open and no spawn is tried until `retry_after`."""

    kind = "runner_unavailable"


class StorageError(OllmlxError):
    """A store could not read or write what it must (disk full, read-only, damaged files)."""

    kind = "storage"


class UpstreamError(OllmlxError):
    """A hub, index or registry refused or failed."""

    kind = "upstream"


class ConfigError(OllmlxError):
    """The settings are not usable; the message lists every fault with its source."""

    kind = "config"


class PluginError(OllmlxError):
    """A plugin broke its contract; the message names it."""

    kind = "plugin"


def _subclasses(cls: type[OllmlxError]) -> list[type[OllmlxError]]:
    found = [cls]
    for child in cls.__subclasses__():
        found += _subclasses(child)
    return found


KINDS: dict[str, type[OllmlxError]] = {cls.kind: cls for cls in _subclasses(OllmlxError)}


def from_kind(kind: str, message: str, *, code: str | None = None) -> OllmlxError:
    """The exception for an error that crossed the Runner Protocol; an unknown kind is a runner failure."""
    return KINDS.get(kind, RunnerFailed)(message, code=code)
