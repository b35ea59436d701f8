"""The hooks. Each registers objects; the daemon calls it once, at start, in the order of this file.

A plugin is a module or an object that an entry point of the group `ollmlx` names. An implementation may leave out
arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel
    from quart import Blueprint

    from ollmlx.plugin.contracts import Backend, Check, PluginContext, Source, Store
    from ollmlx.service import Service

PROJECT = "ollmlx"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
API_VERSION = 1
"""A plugin may state `ollmlx_api = 1`. A plugin that states another number is switched off."""


@hookspec
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """Register the model that validates `[plugins.NAME]`. Called before all other hooks."""


@hookspec
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """Register backends."""


@hookspec
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    """Register stores."""


@hookspec
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    """Register sources. The first source that provides a name is used; `[storage] sources` sets the order."""


@hookspec
def register_routes(register: Callable[[str, Callable[[Service], Blueprint]], None], context: PluginContext) -> None:
    """Register a route family: its name, and a function that makes its Blueprint from the service."""


@hookspec
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    """Register a check of the doctor, and the folder with the runbooks of its codes."""
