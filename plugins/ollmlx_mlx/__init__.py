"""Backend plugin: MLX models through mlx-lm, each in a runner process of its own.

`daemon/` runs in the daemon, `engine/` and `importer/` in child processes. `linux_cpu/` speeds both sides up on Linux
CPUs; without that folder everything works, more slowly. Files in this folder are shared by both sides. Only `engine/`,
`importer/` and the layers of `linux_cpu/` import mlx.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from ollmlx import Backend, PluginContext, hookimpl

ollmlx_api = 1


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    from ollmlx_mlx.daemon.backend import MlxSettings

    register(MlxSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    from ollmlx_mlx.daemon.backend import MlxBackend, make_backend

    register(make_backend(context.settings, MlxBackend))
