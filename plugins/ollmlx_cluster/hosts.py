"""The hosts of a group, and the arguments of mlx.launch: its host file, its ports, the command of a rank.

Used in the daemon and in the launcher; imports no mlx.
"""

from __future__ import annotations

import json
import math
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ollmlx.errors import ConfigError
from ollmlx.protocol import ExitCode
from ollmlx.runner import CannotStart

LOCAL: Final = ("localhost", "127.0.0.1")
AGENT: Final = "SSH_AUTH_SOCK"
"""The variable by which ssh finds the agent with its keys. The launcher needs it; ranks remove it."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\-]{0,254}")
_MAX_FILE: Final = 1 << 20
SELF: Final = "127.0.0.1"
"""The name by which mlx.launch knows this machine. It reaches all other names with ssh."""
ENVIRONMENT: Final = ("PYTHONUNBUFFERED=1", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
"""Variables for ranks that ssh starts. The daemon gives them to every runner."""


def members(hosts: list[str]) -> list[str]:
    """Return the host of each rank. Raises ConfigError when they cannot be a group, or the host file cannot be read."""
    names = [str(entry["ssh"]) for entry in host_file(hosts[0])["hosts"]] if is_file(hosts) else list(hosts)
    for name in names:
        # Names become arguments of ssh: none may look like an option.
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name[:80]!r} is not a host name", code="CFG004")
    if len(names) < 2:
        raise ConfigError("a cluster needs at least two hosts; `localhost` may repeat", code="CFG004")
    if names[0] not in LOCAL:
        if not is_file(hosts):
            raise ConfigError("the first host of a cluster has to be localhost: it serves the requests", code="CFG004")
        names[0] = "localhost"
    return names


def check_heads(config: Mapping[str, Any], ranks: int) -> None:
    """Raise ConfigError unless every rank gets the same number of heads: MLX would compute wrong results silently."""
    found = {key: config.get(key) for key in ("num_attention_heads", "num_key_value_heads")}
    heads = {key: number for key, number in found.items() if isinstance(number, int) and number > 0}
    for key, number in heads.items():
        if number % ranks:
            common = math.gcd(*heads.values())
            fitting = [str(size) for size in range(2, common + 1) if common % size == 0]
            raise ConfigError(
                f"{number} {key.removeprefix('num_').replace('_', ' ')} cannot be divided among {ranks} hosts",
                code="CFG004",
                hint=f"use {' or '.join(fitting)} hosts" if fitting else 'mode = "pipeline" divides by layers',
            )


def is_file(hosts: list[str]) -> bool:
    """Return whether this is one host file instead of names."""
    return len(hosts) == 1 and hosts[0].endswith(".json")


def host_file(path: str) -> dict[str, Any]:
    """Read mlx.launch's host file. Raises ConfigError when it cannot be read or does not list hosts."""
    try:
        with Path(path).expanduser().open("rb") as file:
            content = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the host file {path} cannot be read: {why}", code="CFG004") from None
    content = {"hosts": content} if isinstance(content, list) else content
    entries = content.get("hosts") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and "ssh" in one for one in entries):
        raise ConfigError(
            f"the host file {path} does not list hosts",
            code="CFG004",
            hint='write it with mlx.distributed_config, or as {"hosts": [{"ssh": NAME, "ips": [ADDRESS]}, …]}',
        )
    return dict(content)


def launch_arguments(plan: dict[str, Any], hostfile: Path, rank: Sequence[str]) -> list[str]:
    """Return the arguments of mlx.launch. `rank`: the arguments of `python -m ollmlx_cluster.rank`."""
    names = ranks_of(plan)
    command = [sys.executable, "-P", "-m", "ollmlx_cluster.rank", "--backend", plan["backend"], *rank]
    options = ["--hostfile", str(hostfile), "--backend", plan["backend"]]
    port = str(free_ports(len(names)))
    if plan["backend"] == "nccl":
        # With a host file, the only effect of --repeat-hosts: rank N of a host gets its GPU N.
        options += ["--nccl-port", port, "--repeat-hosts", str(max(names.count(name) for name in names))]
    elif plan["backend"] != "mpi":
        options += ["--starting-port", port]
    return [*options, "--", *command]


def ranks_of(plan: dict[str, Any]) -> list[str]:
    """Return the host of each rank. Raises CannotStart."""
    try:
        return members(plan["hosts"])
    except ConfigError as error:
        raise CannotStart(ExitCode.USAGE, error.message) from None


def hosts_of(plan: dict[str, Any]) -> dict[str, Any]:
    """Return mlx.launch's host file. Rank 0 is on this machine, whatever name a given host file has for it."""
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
    """Return this machine's address for a rank on it, as the rank before it in a ring reaches it."""
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
    """Return this machine's address as another host sees it. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError as error:
            raise CannotStart(ExitCode.INTERNAL, f"no way to {other}: {error.strerror or error}") from None
        return str(probe.getsockname()[0])


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports. Two groups must not share any."""
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
