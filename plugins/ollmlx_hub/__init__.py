"""MLX models: the store "mlx" in `<models>/mlx/`, and the source "hub" that fills it from a Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ollmlx import PluginContext, Source, Store


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    from ollmlx_hub.settings import HubSettings

    register(HubSettings)


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx_hub.store import MlxStore

    register(MlxStore(context.typed().models_folder / "mlx"))


@hookimpl
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    from ollmlx_hub.settings import HubSettings
    from ollmlx_hub.source import HubSource

    own = context.own if isinstance(context.own, HubSettings) else HubSettings()
    register(HubSource(own.access(os.environ)))
