"""The launch spec: everything that the pool needs to start a runner, so that it looks up nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import RunnerConfig
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
    parallel: int = 0
    keep_alive: float = 300.0
    request_timeout: float = math.inf
    pin: bool = False
    prompt_cache_bytes: int | None = 0
    wired: Literal["off", "model", "max"] = "off"
    cache_dir: Path | None = None
    cache_dir_bytes: int = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    debug_prompts: bool = False
    allow_remote_code: bool = False

    @property
    def name(self) -> str:
        """The full name of the model, for messages."""
        return str(self.model.name)

    def config(
        self, *, runner: str, token: str, memory_limit: int, cache_limit: int, prompt_cache: int
    ) -> RunnerConfig:
        """Return the first line on the runner's standard input. Sizes in bytes."""
        return RunnerConfig(
            runner=runner,
            token=token,
            model=self.model,
            context_length=self.context_length,
            parallel=self.parallel,
            memory_limit=memory_limit,
            cache_limit=cache_limit,
            wired=self.wired,
            prompt_cache_bytes=prompt_cache,
            cache_dir=self.cache_dir,
            cache_dir_bytes=self.cache_dir_bytes,
            log_level=self.log_level,
            debug_prompts=self.debug_prompts,
            allow_remote_code=self.allow_remote_code,
            engine_options=self.command.engine_options,
        )
