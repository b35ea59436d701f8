"""Fake models: a backend, a store and a source whose runners are real processes without weights, and can misbehave.

This folder is a plugin called `fake`; a daemon loads it with `[plugins] paths = ["…/ollmlx/testing/fake"]`
(`ollmlx.testing.FAKE_PLUGIN`). Models are declared in its own table, no file needed, each with the options of
`ollmlx.testing.fake.script.Script`:

    [plugins.fake.models.parrot]
    rate = 100
    [plugins.fake.models.crasher]
    load_fault = "exit:1"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollmlx import LaunchOptions, PluginContext, Refusal, RunnerCommand, hookimpl
from ollmlx._lazy import lazy_exports
from ollmlx.types import InstalledModel, MemoryEstimate

if TYPE_CHECKING:
    from ollmlx import Backend, Source, Store
    from ollmlx.testing.fake.engine import FakeEngine as FakeEngine

ENGINE = "ollmlx.testing.fake:FakeEngine"
KV_BYTES_PER_TOKEN = 1024


class FakeBackend:
    """Runs the format `fake` in real runner processes. `InstalledModel.info["fake"]` holds the script's options."""

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
        command = RunnerCommand.of_engine(ENGINE, **model.info.get("fake", {}))
        return command.model_copy(update={"sandbox": "off"})  # a script may write files and start programs

    def importer(self, format: str) -> RunnerCommand | None:
        return None


@hookimpl
def register_settings(register: Callable[[Any], None]) -> None:
    from ollmlx.testing.fake.script import FakeSettings

    register(FakeSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(FakeBackend())


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx.testing.fake.store import FakeStore

    register(FakeStore(context.typed().models_folder / "fake", context.own))


@hookimpl
def register_sources(register: Callable[[Source], None]) -> None:
    from ollmlx.testing.fake.source import FakeSource

    register(FakeSource())


__getattr__, _, __all__ = lazy_exports(__name__, {"ollmlx.testing.fake.engine": "FakeEngine"})
# no __dir__: pluggy finds the hooks in the true one
