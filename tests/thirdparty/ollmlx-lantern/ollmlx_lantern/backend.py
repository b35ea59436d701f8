"""The backend: says which models it runs, and with which program."""

from __future__ import annotations

from ollmlx import LaunchOptions, Refusal, RunnerCommand
from ollmlx.types import InstalledModel, MemoryEstimate


class LanternBackend:
    """Runs models of the format `lantern`."""

    name = "lantern"

    def accepts(self, model: InstalledModel) -> Refusal | None:
        return None if model.format == "lantern" else Refusal(reason="it runs lantern models only")

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        return MemoryEstimate(weights=model.size, kv_cache=context * max(parallel, 1), overhead=0)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand.of_engine("ollmlx_lantern.engine:LanternEngine")

    def importer(self, format: str) -> RunnerCommand | None:
        return None
