"""Runners as `ps`, metrics and the doctor see them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from ollmlx.model.frozen import Frozen
from ollmlx.model.installed import InstalledModel


class RunnerState(StrEnum):
    """The states of a runner, as seen from the daemon."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"


class MemoryEstimate(Frozen):
    """Bytes a model is expected to need. `total` is what the budget is charged with."""

    weights: int
    kv_cache: int
    overhead: int
    kv_per_token: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


class RunnerInfo(Frozen):
    """One loaded (or failed) model. Memory in bytes; `expires_at` None means for ever.

    `device` is what computes (`metal`, `cuda`, `cpu`); `notes` say what was chosen and why (BLAS, weight form, width).
    """

    id: str
    model: InstalledModel
    backend: str
    state: RunnerState
    pid: int | None = None
    context_length: int = 0
    parallel: int = 1
    active: int = 0
    reserved: int = 0
    memory: int = 0
    memory_gpu: int = 0
    started_at: datetime | None = None
    expires_at: datetime | None = None
    restarts: int = 0
    last_error: str | None = None
    last_code: str | None = None
    last_words: tuple[str, ...] = ()
    device: str = ""
    notes: tuple[str, ...] = ()
    cached_tokens: int = 0
    prompt_tokens: int = 0
