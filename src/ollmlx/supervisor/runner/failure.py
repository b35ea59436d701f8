"""The unasked end of a runner: what happened, its last words, and what a client is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ollmlx.errors import OllmlxError, OutOfMemory, RunnerFailed, Timeout
from ollmlx.supervisor.process.exit_status import Remedy


class Cause(StrEnum):
    """Why a runner ended, for metrics and for who is blamed."""

    EXIT = "exit"
    SIGNAL = "signal"
    EXEC = "exec"
    STALL = "stall"
    HANG = "hang"
    MEMORY = "memory"
    PROTOCOL = "protocol"
    CANARY = "canary"


class RunnerDied(RunnerFailed):
    """A runner went away under a request. `fresh` says that a fresh runner may well do better."""

    def __init__(self, death: RunnerFailure, message: str, *, fresh: bool) -> None:
        super().__init__(message, code=death.code, hint="ollmlx logs")
        self.death = death
        self.fresh = fresh


@dataclass(frozen=True, slots=True)
class RunnerFailure:
    """One end. `text` reads after the model's name (`was killed by SIGSEGV`); `said` is the line that explains it."""

    cause: Cause
    text: str
    said: str | None = None
    last_words: tuple[str, ...] = ()
    remedy: Remedy = Remedy.RETRY
    loading: bool = False
    label: str = ""
    """A short, stable name for metrics (`exit_1`, `SIGKILL`); empty: the cause's."""

    def sentence(self, model: str) -> str:
        """One sentence for a person."""
        while_loading = " while loading" if self.loading else ""
        said = f": {self.said}" if self.said else ""
        return f"the runner of {model} {self.text}{while_loading}{said}"

    @property
    def code(self) -> str:
        """The page that explains it."""
        if self.cause in (Cause.HANG, Cause.STALL):
            return "RUN004"
        if self.cause is Cause.MEMORY or (self.loading and self.text.startswith("ran out of memory")):
            return "RUN005"
        if self.cause is Cause.CANARY:
            return "RUN003"
        return "RUN008" if self.cause is Cause.PROTOCOL and self.loading else "RUN002"

    def error(self, model: str) -> OllmlxError:
        """What a request that depended on it is answered with."""
        message = self.sentence(model)
        if self.code == "RUN004":
            return Timeout(message, code=self.code, hint="ollmlx logs")
        if self.code == "RUN005":
            return OutOfMemory(message, code=self.code, hint="a shorter context, a smaller model, or [memory] limit")
        return RunnerDied(self, message, fresh=self.remedy is not Remedy.NONE and not self.loading)
