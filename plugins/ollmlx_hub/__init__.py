"""MLX models: the store "mlx" in `<models>/mlx/`, and the source "hub", which fetches from a Hugging Face hub.

The plugin imports what every plugin may import. Its modules are imported when a hook needs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel

    from ollmlx import Check, PluginContext, Source, Store


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    from ollmlx_hub.client import HubSettings

    register(HubSettings)


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx_hub.store import MlxStore

    register(MlxStore(context.typed().models_folder / "mlx"))


@hookimpl
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    from ollmlx_hub.client import HubSettings
    from ollmlx_hub.search import GgufSearch, HubSearch
    from ollmlx_hub.source import HubSource

    own = context.own or HubSettings()
    private = context.typed().security.private_hosts
    hub = HubSource(own.access(os.environ), private_hosts=private, public=own.public)
    register(hub)
    register(HubSearch(hub, own.organisations))
    register(GgufSearch(hub, own.gguf_organisations))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    from ollmlx_hub.check import HubCheck, ModelsCheck
    from ollmlx_hub.client import HubSettings

    register(ModelsCheck(), None)  # the runbooks of these codes are in ollmlx itself
    register(HubCheck(context.own or HubSettings()), None)
