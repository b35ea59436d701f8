"""Backend plugin: GGUF models through llama.cpp (xllamacpp), each in a runner process of its own.

The daemon imports `backend` and `check`, which run no native code; the child imports `engine` and the modules below it.
The hooks import what they need, so that the child does not import the daemon's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel

    from ollmlx import Backend, Check, PluginContext

ollmlx_api = 1


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """Register the table `[plugins.llamacpp]`."""
    from ollmlx_llamacpp.backend import LlamaCppSettings

    register(LlamaCppSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """Register the backend `llamacpp`."""
    from ollmlx_llamacpp.backend import LlamaCppBackend, LlamaCppSettings, xllamacpp_is_installed

    settings = context.own or LlamaCppSettings()
    kv_cache_type = context.typed().runners.kv_cache_type
    register(LlamaCppBackend(settings, installed=xllamacpp_is_installed, kv_cache_type=kv_cache_type))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None]) -> None:
    """Register the check that llama.cpp is installed and loads, when models need it."""
    from importlib.resources import files

    from ollmlx_llamacpp.backend import xllamacpp_is_installed
    from ollmlx_llamacpp.check import LlamaCppCheck

    register(LlamaCppCheck(xllamacpp_is_installed), files("ollmlx_llamacpp") / "diagnostics")
