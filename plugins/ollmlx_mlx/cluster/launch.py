"""`python -m ollmlx_mlx.cluster.launch --fd N --plan JSON`: the process that the daemon sees as the runner.

It starts the ranks with mlx.launch, hands its listening socket to rank 0 and waits. The group lives and dies as one:
when a rank ends, mlx.launch ends the others, and this ends with rank 0's exit code, or 70 when a rank was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil

from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner import parent
from ollmlx.runner.startup import CannotStart, read_config
from ollmlx_mlx.cluster.command import LOCAL
from ollmlx_mlx.cluster.rendezvous import Host

TIED: Final = (
    "import sys; from ollmlx.runner import parent; parent.tie(); "
    "from mlx._distributed_utils.launch import main; sys.exit(main())"
)
"""mlx.launch, tied to this process; the same program as the command of that name."""
_POLL: Final = 0.5


def main() -> NoReturn:
    """Start the group and end with it."""
    parser = argparse.ArgumentParser(prog="python -m ollmlx_mlx.cluster.launch")
    parser.add_argument("--fd", required=True, type=int)
    parser.add_argument("--plan", required=True)
    given = parser.parse_args()
    daemon = parent.tie()
    parent.confine()
    try:
        code = run(read_config(), given.fd, json.loads(given.plan), daemon)
    except CannotStart as failure:
        sys.stderr.write(f"{failure}\n")
        code = failure.code
    sys.stderr.flush()
    os._exit(code)


def run(config: RunnerConfig, fd: int, plan: dict[str, Any], daemon: int) -> int:
    """One group's life; answers the exit code."""
    host = Host()
    hostfile = host.path.with_name("hosts.json")
    hostfile.write_text(json.dumps(hosts_of(plan)), encoding="utf-8")
    group = subprocess.Popen(
        [sys.executable, "-P", "-c", TIED, *arguments(plan, hostfile, host.path)],
        stdin=subprocess.PIPE,
    )
    threading.Thread(target=_end_with, args=(daemon, group, host), daemon=True).start()
    try:
        return _attend(host, group, config, fd)
    finally:
        _kill(group)
        host.close()


def arguments(plan: dict[str, Any], hostfile: Path, rendezvous: Path) -> list[str]:
    """What follows `mlx.launch`."""
    rank = [sys.executable, "-P", "-m", "ollmlx_mlx.cluster.rank", "--rendezvous", str(rendezvous)]
    own = str(hostfile) if not _is_hostfile(plan) else str(plan["hosts"][0])
    where = ["--hostfile", own, "--backend", plan["backend"], "--starting-port", str(free_ports(len(plan["hosts"])))]
    return [*where, "--", *rank, "--backend", plan["backend"]]


def hosts_of(plan: dict[str, Any]) -> dict[str, Any]:
    """mlx.launch's host file. Names are looked up: the ring wants addresses."""
    remote = [_address(name) for name in plan["hosts"] if name not in LOCAL]
    own = _own_address(remote[0]) if remote else "127.0.0.1"
    entries = []
    for name in plan["hosts"]:
        local = name in LOCAL
        address = own if local else _address(name)
        entries.append({"ssh": "127.0.0.1" if local else name, "ips": [address], "rdma": []})
    return {"backend": plan["backend"], "envs": [], "hosts": entries}


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody listens on now; two groups must not share any."""
    for _ in range(64):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + count < 65536 and all(_is_free(first + offset) for offset in range(count)):
            return first
    raise CannotStart(ExitCode.INTERNAL, "no free ports for the group")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_hostfile(plan: dict[str, Any]) -> bool:
    return len(plan["hosts"]) == 1 and str(plan["hosts"][0]).endswith(".json")


def _address(name: str) -> str:
    machine = name.rpartition("@")[2]
    try:
        found = socket.getaddrinfo(machine, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotStart(ExitCode.USAGE, f"the host {machine!r} of the cluster is not known: {error}") from None
    return str(found[0][4][0])


def _own_address(other: str) -> str:
    """This machine's address as that other one sees it. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return str(probe.getsockname()[0])


def _attend(host: Host, group: subprocess.Popen[bytes], config: RunnerConfig, fd: int) -> int:
    visitor: socket.socket | None = None
    said: int | None = None
    while group.poll() is None:
        ready, _, _ = select.select([visitor or host.socket], [], [], _POLL)
        if not ready:
            continue
        if visitor is None:
            visitor, _ = host.socket.accept()
            host.hand_over(visitor, config, fd)
            # Nobody but rank 0 listens from now on: when it dies, its clients must notice at once.
            os.close(fd)
            continue
        try:
            lines = host.hear(visitor)
        except OSError:
            break
        for line in lines:
            if line == "started":
                _wake(group)
            elif line.startswith("exit "):
                said = int(line.removeprefix("exit "))
    with suppress(subprocess.TimeoutExpired):
        group.wait(3)
    if said is None:
        sys.stderr.write("a rank of the group was lost\n")
    return ExitCode.INTERNAL if said is None else said


def _wake(group: subprocess.Popen[bytes]) -> None:
    """Let mlx.launch find out that the ranks closed their input: until it does, it asks them all the time."""
    assert group.stdin is not None
    with suppress(OSError):
        group.stdin.write(b"\n")
        group.stdin.flush()


def _end_with(daemon: int, group: subprocess.Popen[bytes], host: Host) -> None:
    while os.getppid() == daemon:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 65536):
            break
    _kill(group)
    host.close()
    os._exit(ExitCode.PARENT_GONE)


def _kill(group: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = psutil.Process(group.pid).children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    if group.poll() is None:
        group.kill()
    group.wait()


if __name__ == "__main__":
    main()
