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

from ollmlx import PluginContext, hookimpl
from ollmlx._lazy import lazy_exports

if TYPE_CHECKING:
    from ollmlx import Backend, Source, Store
    from ollmlx.testing.fake.engine import FakeEngine as FakeEngine


@hookimpl
def register_settings(register: Callable[[Any], None]) -> None:
    from ollmlx.testing.fake.settings import FakeSettings

    register(FakeSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    from ollmlx.testing.fake.backend import FakeBackend

    register(FakeBackend())


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx.testing.fake.store import FakeStore

    register(FakeStore(context.typed().models_folder / "fake", context.own))


@hookimpl
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    from ollmlx.testing.fake.source import FakeSource

    register(FakeSource(context.own))


__getattr__, _, __all__ = lazy_exports(__name__, {"ollmlx.testing.fake.engine": ("FakeEngine",)})
# no __dir__: pluggy finds the hooks in the true one
