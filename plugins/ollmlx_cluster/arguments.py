"""What mlx.launch is told of a group: its host file, its ports, the command of a rank."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ollmlx.errors import ConfigError
from ollmlx.protocol import ExitCode
from ollmlx.runner.startup import CannotStart
from ollmlx_cluster.hosts import LOCAL, host_file, is_file, members

SELF: Final = "127.0.0.1"
"""What mlx.launch takes for this machine; everything else is reached with ssh."""
ENVIRONMENT: Final = ("PYTHONUNBUFFERED=1", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
"""For ranks that ssh starts: what the daemon gives to every runner."""


def arguments(plan: dict[str, Any], hostfile: Path, rank: Sequence[str]) -> list[str]:
    """The command line of mlx.launch. `rank` follows `python -m ollmlx_cluster.rank`."""
    names = ranks_of(plan)
    command = [sys.executable, "-P", "-m", "ollmlx_cluster.rank", "--backend", plan["backend"], *rank]
    where = ["--hostfile", str(hostfile), "--backend", plan["backend"]]
    port = str(free_ports(len(names)))
    if plan["backend"] == "nccl":
        # With a host file, the only effect of --repeat-hosts: rank N of a host gets its GPU N.
        where += ["--nccl-port", port, "--repeat-hosts", str(max(names.count(name) for name in names))]
    elif plan["backend"] != "mpi":
        where += ["--starting-port", port]
    return [*where, "--", *command]


def ranks_of(plan: dict[str, Any]) -> list[str]:
    """The host of each rank. Raises CannotStart."""
    try:
        return members(plan["hosts"])
    except ConfigError as error:
        raise CannotStart(ExitCode.USAGE, error.message) from None


def hosts_of(plan: dict[str, Any]) -> dict[str, Any]:
    """mlx.launch's host file. Rank 0 is here, whatever a host file calls this machine."""
    names = ranks_of(plan)
    if is_file(plan["hosts"]):
        given = host_file(plan["hosts"][0])
        entries = [
            {**entry, "ssh": SELF if name in LOCAL else name} for entry, name in zip(given["hosts"], names, strict=True)
        ]
        return {"backend": plan["backend"], "envs": [*ENVIRONMENT, *given.get("envs", ())], "hosts": entries}
    addresses = {name: _address(name) for name in dict.fromkeys(names) if name not in LOCAL}
    entries = [
        {"ssh": SELF, "ips": [_own_address(names, rank, addresses)], "rdma": []}
        if name in LOCAL
        else {"ssh": name, "ips": [addresses[name]], "rdma": []}
        for rank, name in enumerate(names)
    ]
    return {"backend": plan["backend"], "envs": list(ENVIRONMENT), "hosts": entries}


def _own_address(names: Sequence[str], rank: int, addresses: dict[str, str]) -> str:
    """This machine's address for a rank here. In a ring it is called by the rank before it."""
    if not addresses:
        return SELF
    before = names[rank - 1]
    return _address_towards(addresses.get(before) or next(iter(addresses.values())))


def _address(name: str) -> str:
    machine = name.rpartition("@")[2]
    try:
        found = socket.getaddrinfo(machine, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"the host {machine!r} of the cluster is not known: {error.strerror or error}; `ollmlx doctor --online`"
        raise CannotStart(ExitCode.USAGE, text) from None
    return str(found[0][4][0])


def _address_towards(other: str) -> str:
    """This machine's address as that other one sees it. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError as error:
            raise CannotStart(ExitCode.INTERNAL, f"no way to {other}: {error.strerror or error}") from None
        return str(probe.getsockname()[0])


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody listens on now; two groups must not share any."""
    for _ in range(64):
        with socket.socket() as probe:
            probe.bind((SELF, 0))
            first: int = probe.getsockname()[1]
        if first + count < 65536 and all(_is_free(first + offset) for offset in range(count)):
            return first
    raise CannotStart(ExitCode.INTERNAL, "no free ports for the group")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((SELF, port))
        except OSError:
            return False
    return True
