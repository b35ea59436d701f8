"""The hosts of a group, as the settings or mlx.launch's host file name them. Used in the daemon; imports no mlx."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ollmlx.errors import ConfigError

LOCAL: Final = ("localhost", "127.0.0.1")
AGENT: Final = "SSH_AUTH_SOCK"
"""Where ssh finds the keys that an agent holds. The launcher needs it; ranks remove it from their environment."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\-]{0,254}")
_MAX_FILE: Final = 1 << 20


def members(hosts: list[str]) -> list[str]:
    """The host of each rank. Raises ConfigError when they cannot be a group, or the host file cannot be read."""
    names = [str(entry["ssh"]) for entry in host_file(hosts[0])["hosts"]] if is_file(hosts) else list(hosts)
    for name in names:
        # They become arguments of ssh: nothing that could be an option.
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
    """Raise ConfigError unless every rank gets the same number of heads: MLX would compute nonsense in silence."""
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
    """Whether this is one host file instead of names."""
    return len(hosts) == 1 and hosts[0].endswith(".json")


def host_file(path: str) -> dict[str, Any]:
    """mlx.launch's host file. Raises ConfigError when it cannot be read or does not list hosts."""
    try:
        with Path(path).expanduser().open("rb") as file:
            told = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the host file {path} cannot be read: {why}", code="CFG004") from None
    told = {"hosts": told} if isinstance(told, list) else told
    entries = told.get("hosts") if isinstance(told, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and "ssh" in one for one in entries):
        raise ConfigError(
            f"the host file {path} does not list hosts",
            code="CFG004",
            hint='write it with mlx.distributed_config, or as {"hosts": [{"ssh": NAME, "ips": [ADDRESS]}, …]}',
        )
    return dict(told)
