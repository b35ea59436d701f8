"""The launch spec: everything that the pool needs to start a runner, so that it looks up nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.types import InstalledModel, MemoryEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One model as it is to be loaded. Made by `LaunchPlanner`; two specs with one `key` share a runner.

    `key` identifies what is loaded: the files, the backend and options of the load, but not `context_length`. A loaded
    runner with a longer context serves a spec with a shorter one; a longer one reloads the model. `context_length` in
    tokens, `parallel` the batch width (0: the engine chooses). `keep_alive` and `request_timeout` in seconds
    (`math.inf`: no limit). `pin`: never evicted, never expired, loaded again after its runner exited.
    `prompt_cache_bytes` None: a share of the memory that is left.
    """

    key: str
    model: InstalledModel
    backend: str
    command: RunnerCommand
    context_length: int
    estimate: MemoryEstimate
    why: str = ""
    """The reason for the backend, in one sentence."""
    parallel: int = 0
    keep_alive: float = 300.0
    request_timeout: float = math.inf
    pin: bool = False
    prompt_cache_bytes: int | None = 0
    runner_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields of the runner's `RunnerConfig` that the settings decide: `wired`, `cache_dir`, `log_level` and others."""
    name: str = field(init=False)
    """The full name of the model, for messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.model.name))
