"""Backend plugin: models that see pictures, through mlx-vlm, with the engine of `ollmlx_mlx`.

mlx-vlm reads the weights, prepares pictures and turns them into the language model's inputs; batching, caches, sampling
and the rest are the text engine's. Only `engine/` imports mlx and mlx-vlm.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable

from ollmlx import Backend, Check, PluginContext, hookimpl

ollmlx_api = 1


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    from ollmlx_mlx.daemon.backend import make_backend
    from ollmlx_mlx_vlm.backend import MlxVlmBackend

    register(make_backend(context.settings, MlxVlmBackend))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None]) -> None:
    """Register the check that mlx-vlm is installed and loads, when models need it."""
    from ollmlx_mlx_vlm.backend import vlm_is_installed
    from ollmlx_mlx_vlm.check import VisionCheck

    register(VisionCheck(vlm_is_installed), files("ollmlx_mlx_vlm") / "diagnostics")
