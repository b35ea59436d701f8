"""Backend plugin: GGUF models through llama.cpp (xllamacpp), each in a runner process of its own.

Nothing here imports native code: whether xllamacpp is installed is asked of the file system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel

    from ollmlx.plugin.contracts import Backend, Check, PluginContext

ollmlx_api = 1


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """The table `[plugins.llamacpp]`."""
    from ollmlx_llamacpp.settings import LlamaCppSettings

    register(LlamaCppSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """The backend `llamacpp`."""
    from ollmlx_llamacpp.backend import LlamaCppBackend, xllamacpp_is_installed
    from ollmlx_llamacpp.settings import LlamaCppSettings

    register(
        LlamaCppBackend(
            context.own or LlamaCppSettings(),
            installed=xllamacpp_is_installed,
            kv_cache_type=context.typed().runners.kv_cache_type,
        )
    )


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None]) -> None:
    """Whether llama.cpp is there and loads, when models need it."""
    from importlib.resources import files

    from ollmlx_llamacpp.backend import xllamacpp_is_installed
    from ollmlx_llamacpp.check import LlamaCppCheck

    register(LlamaCppCheck(xllamacpp_is_installed), files("ollmlx_llamacpp") / "diagnostics")
