"""The backend of fake models: a real runner process around `FakeEngine`."""

from __future__ import annotations

from ollmlx import LaunchOptions, Refusal, RunnerCommand
from ollmlx.types import InstalledModel, MemoryEstimate

ENGINE = "ollmlx.testing.fake:FakeEngine"
KV_BYTES_PER_TOKEN = 1024


class FakeBackend:
    """Runs the format `fake`. `InstalledModel.info["fake"]` holds the script's options."""

    name = "fake"

    def accepts(self, model: InstalledModel) -> Refusal | None:
        if model.format == "fake":
            return None
        return Refusal(reason=f"it runs fake models, not {model.format}")

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        return MemoryEstimate(
            weights=model.size,
            kv_cache=KV_BYTES_PER_TOKEN * context * max(parallel, 1),
            overhead=0,
            kv_per_token=KV_BYTES_PER_TOKEN,
        )

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand.of_engine(ENGINE, **model.info.get("fake", {}))

    def importer(self, format: str) -> RunnerCommand | None:
        return None
