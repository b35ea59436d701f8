"""Backend plugin: GGUF models through llama.cpp (xllamacpp), each in a runner process of its own.

The daemon imports `backend` and `check`, which run no native code; the child imports `engine` and the modules below it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable

from pydantic import BaseModel

from ollmlx import Backend, Check, PluginContext, hookimpl
from ollmlx_llamacpp.backend import LlamaCppBackend, LlamaCppSettings, xllamacpp_is_installed
from ollmlx_llamacpp.check import LlamaCppCheck

ollmlx_api = 1


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    register(LlamaCppSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    settings = context.own or LlamaCppSettings()
    kv_cache_type = context.typed().runners.kv_cache_type
    register(LlamaCppBackend(settings, installed=xllamacpp_is_installed, kv_cache_type=kv_cache_type))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None]) -> None:
    """Register the check that llama.cpp is installed and loads, when models need it."""
    register(LlamaCppCheck(xllamacpp_is_installed), files("ollmlx_llamacpp") / "diagnostics")
