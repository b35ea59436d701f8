"""Backend plugin: MLX models through mlx-lm, each in a runner process of its own. Nothing here imports mlx."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel

    from ollmlx.plugin.contracts import Backend, Check, PluginContext
    from ollmlx_mlx.daemon.backend import MlxBackend

ollmlx_api = 1


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """The table `[plugins.mlx]`."""
    from ollmlx_mlx.daemon.settings import MlxSettings

    register(MlxSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    """The backend `mlx`."""
    register(make_backend(context))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    """The check of the hosts of declared clusters. Its pages are there even without any."""
    declared = [(name, model.from_ or name, model.cluster) for name, model in context.typed().models.items()]
    from importlib.resources import files

    from ollmlx_cluster.check import Cluster, ClusterCheck

    clusters = {name: Cluster(cluster.hosts, base) for name, base, cluster in declared if cluster is not None}
    register(ClusterCheck(clusters), files("ollmlx_mlx") / "diagnostics")


def make_backend(context: PluginContext) -> MlxBackend:
    """The backend for this machine and these settings."""
    from ollmlx import ModelName, ThisMachine, find_budget
    from ollmlx_mlx.daemon.backend import MlxBackend
    from ollmlx_mlx.daemon.known_models import installed_mlx_lm
    from ollmlx_mlx.daemon.machine import Machine
    from ollmlx_mlx.daemon.settings import MlxSettings
    from ollmlx_mlx.linux_cpu.blas_probe import ChildProbe, ProbeMemory

    settings = context.typed()
    budget: int | None = None

    def memory_budget() -> int:
        nonlocal budget
        if budget is None:
            budget = find_budget(settings.memory, ThisMachine()).size
        return budget

    machine = Machine.here()
    trusted = {ModelName.parse(name) for name in settings.security.allow_remote_code}
    return MlxBackend(
        context.own or MlxSettings(),
        machine,
        ChildProbe(machine, ProbeMemory(settings.state_folder / "blas.json")),
        budget=memory_budget,
        trusted=lambda model: model.name in trusted,
        mlx_lm=installed_mlx_lm(),
        kv_cache_type=settings.runners.kv_cache_type,
    )
