"""Backend plugin: one model over several processes or machines, with MLX's own distributed engine and `mlx.launch`.

The daemon sees one runner: the launcher (`launch`). It starts a group of ranks (`rank`) and passes its listening socket
to rank 0, which serves the Runner Protocol; the other ranks compute each pass with it. This plugin is built on
`ollmlx_mlx`, which does not know it; nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable

from ollmlx import Backend, Check, PluginContext, hookimpl

ollmlx_api = 1


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """Register the backend `cluster`, for models declared with `[models."NAME".cluster]`."""
    from ollmlx_cluster.backend import ClusterBackend
    from ollmlx_mlx.daemon.backend import make_backend

    register(make_backend(context.settings, ClusterBackend))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    """Register the check of the hosts of declared clusters. Its pages are there even without any."""
    from ollmlx_cluster.check import ClusterCheck, DeclaredCluster

    clusters = {
        name: DeclaredCluster(model.cluster.hosts, model.from_ or name)
        for name, model in context.typed().models.items()
        if model.cluster is not None
    }
    register(ClusterCheck(clusters), files("ollmlx_cluster") / "diagnostics")
