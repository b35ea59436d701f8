"""Why a runner exited: the meaning of its exit status, the error for its requests, and what could help. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from ollmlx.errors import OllmlxError, OutOfMemory, RunnerFailed, Timeout
from ollmlx.protocol import ExitCode


class Remedy(StrEnum):
    """The action that could help after a runner exited."""

    RETRY = "retry"
    """Start a fresh runner, after a pause."""
    MAKE_ROOM = "make_room"
    """Evict idle models, then start once more."""
    NONE = "none"
    """No action: the same start would end the same way."""


class Cause(StrEnum):
    """The reason why a runner exited, for metrics and error codes."""

    EXIT = "exit"
    SIGNAL = "signal"
    EXEC = "exec"
    STALL = "stall"
    HANG = "hang"
    MEMORY = "memory"
    PROTOCOL = "protocol"
    TRIAL_PROMPT = "trial_prompt"


_CODES: dict[int, tuple[str, Remedy]] = {
    ExitCode.ASKED: ("ended without being asked", Remedy.RETRY),
    ExitCode.USAGE: ("refused its configuration", Remedy.NONE),
    ExitCode.BAD_MODEL: ("cannot load the model's files", Remedy.NONE),
    ExitCode.PROTOCOL: ("speaks another version of the runner protocol", Remedy.NONE),
    ExitCode.OUT_OF_MEMORY: ("ran out of memory", Remedy.MAKE_ROOM),
    ExitCode.PARENT_GONE: ("found its daemon gone", Remedy.RETRY),
    126: ("could not be executed", Remedy.NONE),
    127: ("could not be found", Remedy.NONE),
}
_SIGNALS: dict[int, tuple[str, Remedy]] = {
    signal.SIGKILL: (" (the system kills like this when memory runs out)", Remedy.MAKE_ROOM),
    signal.SIGSEGV: (" (a crash in native code)", Remedy.RETRY),
    signal.SIGABRT: (" (native code gave up)", Remedy.RETRY),
    signal.SIGBUS: (" (a crash in native code, or a model file that changed while in use)", Remedy.RETRY),
    signal.SIGILL: (" (native code built for another processor)", Remedy.NONE),
}


@dataclass(frozen=True, slots=True)
class RunnerFailure:
    """One exit that was not asked for. `text` reads after the model's name: `was killed by SIGSEGV`.

    `explanation` is the line of output that most likely says why; `output` are the last lines. `loading`: the model was
    not loaded yet. `label` is a short, stable name for metrics; empty: the cause's.
    """

    cause: Cause
    text: str
    explanation: str | None = None
    output: tuple[str, ...] = ()
    remedy: Remedy = Remedy.RETRY
    loading: bool = False
    label: str = ""

    @classmethod
    def of_exit(
        cls, returncode: int, explanation: str | None = None, output: tuple[str, ...] = (), *, loading: bool = False
    ) -> RunnerFailure:
        """Explain a return code as `asyncio` reports it: negative for a signal."""
        if returncode < 0:
            known = -returncode in set(signal.Signals)
            label = signal.Signals(-returncode).name if known else f"signal {-returncode}"
            text, remedy = _SIGNALS.get(-returncode, ("", Remedy.RETRY))
            return cls(Cause.SIGNAL, f"was killed by {label}{text}", explanation, output, remedy, loading, label)
        text, remedy = _CODES.get(returncode, ("", Remedy.RETRY))
        text = f"{text} (exit status {returncode})" if text else f"ended with exit status {returncode}"
        return cls(Cause.EXIT, text, explanation, output, remedy, loading, f"exit_{returncode}")

    def sentence(self, model: str) -> str:
        """Return one sentence for a person."""
        while_loading = " while loading" if self.loading else ""
        explanation = f": {self.explanation}" if self.explanation else ""
        return f"the runner of {model} {self.text}{while_loading}{explanation}"

    @property
    def code(self) -> str:
        """The code of the diagnostics page that explains it."""
        if self.cause in (Cause.HANG, Cause.STALL):
            return "RUN004"
        if self.cause is Cause.MEMORY or (self.loading and self.text.startswith("ran out of memory")):
            return "RUN005"
        if self.cause is Cause.TRIAL_PROMPT:
            return "RUN003"
        return "RUN008" if self.cause is Cause.PROTOCOL and self.loading else "RUN002"

    def error(self, model: str) -> OllmlxError:
        """Return the error for a request that needed this runner."""
        message = self.sentence(model)
        if self.code == "RUN004":
            return Timeout(message, code=self.code, hint="ollmlx logs")
        if self.code == "RUN005":
            return OutOfMemory(message, code=self.code, hint="a shorter context, a smaller model, or [memory] limit")
        return RunnerExited(self, message, retryable=self.remedy is not Remedy.NONE and not self.loading)


class RunnerExited(RunnerFailed):
    """A runner exited while it served a request. `retryable`: a fresh runner may serve the request."""

    def __init__(self, failure: RunnerFailure, message: str, *, retryable: bool) -> None:
        super().__init__(message, code=failure.code, hint="ollmlx logs")
        self.failure = failure
        self.retryable = retryable
