"""Every hook, in one place. All are synchronous and only register; the daemon calls them once, at start, in this order.

A plugin is a module (or object) named by an entry point of the group `ollmlx`. Arguments may be left out.
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
"""A plugin may say `ollmlx_api = 1`; another number is refused by name."""


@hookspec
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """Register the model that validates `[plugins.NAME]`. Called first, before settings are final."""


@hookspec
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """Register what can run models."""


@hookspec
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    """Register what owns installed models on disk."""


@hookspec
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    """Register what fetches models. Asked in the order of registration; the first that provides a name is used."""


@hookspec
def register_routes(register: Callable[[str, Callable[[Service], Blueprint]], None], context: PluginContext) -> None:
    """Register a route family: its name, and a function that makes its Blueprint over the service."""


@hookspec
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    """Register a doctor check and the folder with the runbooks of its codes."""
