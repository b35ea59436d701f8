"""The backend for clusters in the daemon: which models can be spread, what that costs here, and the launcher's command.

Imports no mlx.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from ollmlx import LaunchOptions, RunnerCommand
from ollmlx.errors import ConfigError, Unsupported
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_cluster.hosts import AGENT, LOCAL, check_heads, members
from ollmlx_mlx.daemon.backend import MlxBackend
from ollmlx_mlx.daemon.estimate import ModelFacts, embedding_bytes, estimate


class ClusterBackend(MlxBackend):
    """Runs an MLX model as a group of ranks. It accepts the models that the MLX backend accepts."""

    name = "cluster"
    spreads = "mlx"

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        """Return the bytes that the ranks on this machine hold. A group serves one request at a time.

        Raises ConfigError when the hosts cannot be a group for this model, Unsupported for what a group cannot load.
        """
        for what in ("adapter", "draft"):
            if getattr(model.defaults, what) is not None:
                raise Unsupported(
                    f"{model.name.short} cannot be spread with its {what}",
                    code="MDL007",
                    hint=f'remove {what} from [models."{model.name.short}"], or its cluster',
                )
        names = members([str(host) for host in cluster.get("hosts", ())])
        facts = self.facts(model.path)
        tensor = cluster.get("mode", "tensor") == "tensor"
        if tensor:
            check_heads(facts.config, len(names))
        here = sum(name in LOCAL for name in names)
        # Tensor mode divides the cache by heads; a latent vector belongs to all heads.
        return share(facts, context, len(names), here, split_cache=not (tensor and facts.latents))

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """Return the command of the launcher. Raises ConfigError when the hosts cannot be a group."""
        if options.cluster is None:
            raise ConfigError(
                f"{model.name.short} has no hosts to be spread over",
                code="CFG004",
                hint=f'add [models."{model.name.short}".cluster], or choose another backend',
            )
        return cluster_command(self.runner_command(model, options, streams=1), options.cluster)

    def importer(self, format: str) -> RunnerCommand | None:
        """Return None: the MLX backend imports."""
        return None


def share(facts: ModelFacts, context: int, ranks: int, here: int, *, split_cache: bool) -> MemoryEstimate:
    """Return the bytes on this machine when `here` of `ranks` ranks run on it.

    Each rank holds its part of the layers, and the embeddings whole. One sequence runs at a time. `split_cache`:
    whether each rank keeps only a part of the cache.
    """
    alone = estimate(facts, context, 1)
    whole = min(alone.weights, embedding_bytes(facts))
    parts = ranks if split_cache else 1
    return MemoryEstimate(
        weights=here * (whole + (alone.weights - whole) // ranks),
        kv_cache=here * alone.kv_cache // parts,
        overhead=here * alone.overhead,
        kv_per_token=here * alone.kv_per_token // parts,
    )


def cluster_command(
    alone: RunnerCommand, cluster: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> RunnerCommand:
    """Return the command of the launcher, with the environment and the options of the single runner `alone`.

    `cluster` is the table `[models."NAME".cluster]`. Raises ConfigError when the hosts cannot be a group.
    """
    hosts = [str(host) for host in cluster.get("hosts", ())]
    names = members(hosts)
    plan = {"hosts": hosts, "backend": cluster.get("backend", "ring"), "mode": cluster.get("mode", "tensor")}
    argv = (sys.executable, "-P", "-m", "ollmlx_cluster.launch", "--fd", "{fd}", "--plan", json.dumps(plan))
    notes = [*alone.engine_options.get("notes", ()), f"a group of {len(names)} ({plan['mode']}, {plan['backend']})"]
    local = sum(name in LOCAL for name in names)
    env = dict(alone.env)
    if local < len(names) and AGENT in environ:
        env[AGENT] = environ[AGENT]
    options = {**alone.engine_options, "notes": notes, "mode": plan["mode"], "local_ranks": local}
    return RunnerCommand(argv=argv, env=env, engine_options=options)
