"""The command that runs a model as a group of ranks. Pure but for a host file; used in the daemon."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from ollmlx import RunnerCommand
from ollmlx_cluster.hosts import LOCAL, members

AGENT = "SSH_AUTH_SOCK"
"""Where ssh finds the keys that an agent holds. The launcher needs it; ranks drop it."""


def cluster_command(
    alone: RunnerCommand, cluster: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> RunnerCommand:
    """The group that replaces the single runner `alone`. `cluster` is the table `[models."NAME".cluster]`.

    Raises ConfigError when the hosts cannot be a group.
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
