"""Models that Ollama installed: the store "ollama" in Ollama's models folder, and the source "ollama" for registries.

The plugin imports what every plugin may import. Its modules are imported when a hook needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from ollmlx import Check, PluginContext, Source, Store

ollmlx_api = 1
FOLDERS = "ollama"
"""The folder of the state folder that holds links to the layers of models for MLX."""


class OllamaStoreSettings(BaseModel):
    """The registry that models of Ollama's names are pulled from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str = Field(
        "registry.ollama.ai",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9.\-]*(:[0-9]{1,5})?)?$",
        description="Registry for names without a host, such as `phi3:mini`, that no source before it provides."
        " Empty: only names with a host are pulled from registries.",
    )


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    register(OllamaStoreSettings)


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx_ollama_store.store import OllamaStore

    register(OllamaStore(context.typed().models_folder, context.typed().state_folder / FOLDERS))


@hookimpl
def register_sources(register: Callable[[Source], None], context: PluginContext) -> None:
    from ollmlx_ollama_store.layout import OllamaLayout
    from ollmlx_ollama_store.source import OllamaSource

    own = context.own or OllamaStoreSettings()
    security = context.typed().security
    layout = OllamaLayout(context.typed().models_folder)
    register(OllamaSource(own.registry, layout, private_hosts=security.private_hosts, has_keys=security.has_keys))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    from ollmlx_ollama_store.check import OllamaCheck

    register(OllamaCheck(context.typed().models_folder, context.typed().state_folder / FOLDERS), None)
