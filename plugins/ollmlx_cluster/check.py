"""The doctor's check of the hosts of declared clusters: reachable, with the same versions, and with the model."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx.errors import ConfigError
from ollmlx_cluster.hosts import LOCAL, members
from ollmlx_cluster.inspect import inspect

SECONDS: Final = 8
"""Time limit of ssh and its command."""
_MAX_ANSWER: Final = 1 << 20
UNUSABLE: Final = "ENV020"
UNLIKE: Final = "ENV023"
NO_MODEL: Final = "MDL020"
INSPECT: Final = (sys.executable, "-P", "-m", "ollmlx_cluster.inspect")


async def over_ssh(host: str, command: Sequence[str]) -> str:
    """Run a command (words) on a host, as mlx.launch would: without a password, in bounded time.

    Returns its output. Raises OSError with ssh's own message.
    """
    argv = [_ssh(), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SECONDS // 2}", "--", host, shlex.join(command)]
    run = partial(subprocess.run, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    try:
        done = await asyncio.to_thread(run, argv, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise OSError(lines[-1][:300] if lines else f"ssh ended with status {done.returncode}")
    return done.stdout[:_MAX_ANSWER]


def _ssh() -> str:
    """Return the absolute path of ssh; a folder of PATH that depends on the working directory does not count."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder.startswith("/")]
    found = shutil.which("ssh", path=os.pathsep.join(folders))
    if found is None:
        raise OSError("ssh is not installed")
    return found


RunOn = Callable[[str, Sequence[str]], Awaitable[str]]
"""Runs a command (words) on a host. Returns its output, raises OSError with the reason."""


@dataclass(frozen=True)
class DeclaredCluster:
    hosts: tuple[str, ...]
    model: str


class ClusterCheck:
    """Reports each host that cannot be a rank. `clusters` by declared model name.

    The lists of hosts are always checked. The hosts themselves are asked with `--online` only.
    """

    name = "cluster"
    group = "machine"
    codes: tuple[str, ...] = (UNUSABLE, UNLIKE, NO_MODEL)

    def __init__(self, clusters: Mapping[str, DeclaredCluster], run_on: RunOn | None = None) -> None:
        self._clusters = clusters
        self._run_on = run_on or over_ssh

    async def run(self, context: Any) -> Sequence[Finding]:
        """Check the lists of hosts, then ask every remote host once."""
        findings: list[Finding] = []
        wanted: dict[str, dict[str, Path]] = {}
        for alias, cluster in self._clusters.items():
            try:
                names = members(list(cluster.hosts))
            except ConfigError as error:
                title = f"the cluster of {alias} cannot be started"
                findings.append(Finding.of(UNUSABLE, title, evidence=[error.message], subject=alias))
                continue
            model = await context.installed(cluster.model)
            for host in names:
                if host not in LOCAL:
                    wanted.setdefault(host, {}).update({alias: model.path} if model is not None else {})
        if not context.online:
            return [*findings, *_not_asked(sorted(wanted))]
        for found in await asyncio.gather(*(self._host(host, wanted[host]) for host in sorted(wanted))):
            findings.extend(found)
        return findings

    async def _host(self, host: str, models: Mapping[str, Path]) -> list[Finding]:
        folders = sorted({str(path) for path in models.values()})
        here = await asyncio.to_thread(inspect, folders)
        command = [*INSPECT, *folders]
        try:
            there = json.loads(await self._run_on(host, command))
            versions, digests = dict(there["versions"]), dict(there["models"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error) or type(error).__name__
            again = f"ssh -o BatchMode=yes {host} {shlex.join(command)}"
            title = f"the host {host} cannot take part in a cluster"
            return [Finding.of(UNUSABLE, title, evidence=why.splitlines(), commands=[again], subject=host)]
        unlike = _versions_differ(host, here["versions"], versions)
        absent = [_model_differs(host, name, path, here["models"], digests) for name, path in sorted(models.items())]
        return [finding for finding in (unlike, *absent) if finding is not None]


def _not_asked(hosts: Sequence[str]) -> list[Finding]:
    if not hosts:
        return []
    title = "the hosts of clusters were not asked: the network is only used with --online"
    commands = ["ollmlx doctor machine --online"]
    return [Finding.of(UNUSABLE, title, evidence=hosts, commands=commands, subject="cluster", severity=Severity.INFO)]


def _versions_differ(host: str, here: Mapping[str, str], there: Mapping[str, str]) -> Finding | None:
    unlike = [f"{name}: {here[name]} here, {there.get(name)} there" for name in here if there.get(name) != here[name]]
    if not unlike:
        return None
    pinned = [f"{name}=={version}" for name, version in here.items() if name != "python"]
    update = f"ssh {host} {shlex.join([sys.executable, '-P', '-m', 'pip', 'install', *pinned])}"
    title = f"the host {host} has other versions than this machine"
    return Finding.of(UNLIKE, title, evidence=unlike, commands=[update], subject=host)


def _model_differs(
    host: str, model: str, path: Path, here: Mapping[str, str | None], there: Mapping[str, str | None]
) -> Finding | None:
    digest = there.get(str(path))
    if digest == here[str(path)]:
        return None
    what = "has no" if digest is None else "has another"
    copy = f"rsync -a --delete {shlex.quote(str(path))}/ {host}:{shlex.quote(str(path))}/"
    evidence = f"looked for at {path}" if digest is None else f"names, sizes or beginnings of files differ in {path}"
    title = f"the host {host} {what} copy of {model}"
    return Finding.of(NO_MODEL, title, evidence=[evidence], commands=[copy], subject=f"{model} on {host}")
