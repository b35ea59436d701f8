"""The doctor's look at the hosts of declared clusters: reachable, alike, and with the model."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx.errors import ConfigError
from ollmlx_mlx.cluster.command import LOCAL, check_hosts
from ollmlx_mlx.cluster.inspect import inspect

CODE: Final = "ENV020"
SECONDS: Final = 8
_MAX_ANSWER: Final = 1 << 20

Ask = Callable[[str, Sequence[str]], Awaitable[str]]
"""Run a command (words) on a host; answers its output, raises OSError with the reason."""


class ClusterCheck:
    """One finding for each host that could not be a rank. `clusters`: hosts by declared model name."""

    name = "cluster"
    group = "machine"
    codes: tuple[str, ...] = (CODE,)

    def __init__(self, clusters: Mapping[str, Sequence[str]], ask: Ask | None = None) -> None:
        self._clusters = clusters
        self._ask = ask or over_ssh

    async def run(self, world: Any) -> Sequence[Finding]:
        """Ask every remote host once."""
        findings: list[Finding] = []
        for model, hosts in self._clusters.items():
            try:
                check_hosts(list(hosts))
            except ConfigError as error:
                findings.append(_finding(model, "", f"the cluster of {model} cannot be started: {error.message}"))
        remote = {host for hosts in self._clusters.values() for host in hosts if host not in LOCAL}
        asked = sorted(host for host in remote if not host.endswith(".json") and _is_safe(host))
        for found in await asyncio.gather(*(self._host(host) for host in asked)):
            findings.extend(found)
        return findings

    async def _host(self, host: str) -> list[Finding]:
        command = [sys.executable, "-P", "-m", "ollmlx_mlx.cluster.inspect"]
        try:
            there = json.loads(await self._ask(host, command))["versions"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error) or type(error).__name__
            title = f"the host {host} cannot take part in a cluster"
            return [_finding(host, why, title, f"ssh -o BatchMode=yes {host} {shlex.join(command)}")]
        here = inspect([])["versions"]
        unlike = [
            f"{name}: {here[name]} here, {there.get(name)} there" for name in here if there.get(name) != here[name]
        ]
        if not unlike:
            return []
        update = f"ssh {host} {sys.executable} -m pip install ollmlx=={here['ollmlx']} mlx=={here['mlx']}"
        return [_finding(host, "\n".join(unlike), f"the host {host} has other versions than this machine", update)]


async def over_ssh(host: str, command: Sequence[str]) -> str:
    """Without a password, without questions, in bounded time. Raises OSError with ssh's own words."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SECONDS // 2}"]
    process = await asyncio.create_subprocess_exec(
        "ssh",
        *options,
        "--",
        host,
        shlex.join(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        raise OSError(f"no answer within {SECONDS} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        words = err.decode("utf-8", "replace").strip().splitlines()
        raise OSError(words[-1][:300] if words else f"ssh ended with status {process.returncode}")
    return out[:_MAX_ANSWER].decode("utf-8", "replace")


def _is_safe(host: str) -> bool:
    try:
        check_hosts(["localhost", host])
    except ConfigError:
        return False
    return True


def _finding(subject: str, evidence: str, title: str, *commands: str) -> Finding:
    return Finding(
        code=CODE,
        severity=Severity.ERROR,
        title=title,
        evidence=tuple(line for line in evidence.splitlines() if line),
        commands=commands,
        subject=subject,
    )
