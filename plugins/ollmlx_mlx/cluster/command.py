"""The command that runs a model as a group of ranks. Pure; used in the daemon."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

from ollmlx import RunnerCommand
from ollmlx.errors import ConfigError

LOCAL: Final = ("localhost", "127.0.0.1")
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\-]{0,254}")
_HOSTFILE: Final = re.compile(r"[^\0]{1,1000}\.json")


def cluster_command(alone: RunnerCommand, cluster: Mapping[str, Any]) -> RunnerCommand:
    """The group that replaces the single runner `alone`. `cluster` is the table `[models."NAME".cluster]`.

    Raises ConfigError when the hosts cannot be a group.
    """
    hosts = [str(host) for host in cluster.get("hosts", ())]
    check_hosts(hosts)
    plan = {"hosts": hosts, "backend": cluster.get("backend", "ring"), "mode": cluster.get("mode", "tensor")}
    argv = (sys.executable, "-P", "-m", "ollmlx_mlx.cluster.launch", "--fd", "{fd}", "--plan", json.dumps(plan))
    notes = [*alone.engine_options.get("notes", ()), f"a group of {len(hosts)} ({plan['mode']}, {plan['backend']})"]
    return RunnerCommand(argv=argv, env=alone.env, engine_options={**alone.engine_options, "notes": notes, **plan})


def check_hosts(hosts: list[str]) -> None:
    """Raise ConfigError unless these are host names (or one host file), rank 0 on this machine."""
    if len(hosts) == 1 and _HOSTFILE.fullmatch(hosts[0]):
        return
    for host in hosts:
        # They become arguments of ssh: nothing that could be an option.
        if not _HOST.fullmatch(host):
            raise ConfigError(f"{host[:80]!r} is not a host name", code="CFG004")
    if len(hosts) < 2:
        raise ConfigError("a cluster needs at least two hosts; `localhost` may repeat", code="CFG004")
    if hosts[0] not in LOCAL:
        raise ConfigError("the first host of a cluster has to be localhost: it serves the requests", code="CFG004")
