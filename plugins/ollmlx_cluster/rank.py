"""`python -m ollmlx_cluster.rank --rendezvous PATH`, on every host of the group, started by mlx.launch.

Rank 0 fetches the daemon's listening socket and the configuration from the launcher at PATH and serves; the others
hear the configuration from rank 0 and compute along. A rank that loses the others, or the launcher, ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner import program
from ollmlx_cluster import liveness as pulse
from ollmlx_cluster.handover import LauncherConnection
from ollmlx_cluster.hosts import AGENT

if TYPE_CHECKING:
    from ollmlx_cluster.shard import Collectives


def main() -> NoReturn:
    """Join the group and work until it ends."""
    parser = argparse.ArgumentParser(prog="python -m ollmlx_cluster.rank")
    parser.add_argument("--rendezvous", required=True, type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--silence", required=True, type=float)
    given = parser.parse_args()
    program.tie()
    program.confine()
    # mlx.launch asks everybody to end when one is lost. Rank 0 leaves that to the launcher, which learns who it was:
    # its clients should not hear that the runner is closing, as if that had been asked for. Inherited by all threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pulse.live(given.silence, given.backend)
    os.environ.pop(AGENT, None)

    import mlx.core as mx

    from ollmlx_cluster.shard import Collectives

    link = Collectives(mx.distributed.init(strict=True, backend=given.backend))
    _forget_host_file()
    try:
        code = _lead(link, given.rendezvous, given.backend) if link.leads else _follow(link)
    except RuntimeError as error:
        sys.stderr.write(f"rank {link.rank} lost the group: {error}\n")
        code = ExitCode.INTERNAL
    sys.stderr.flush()
    os._exit(code)


def _forget_host_file() -> None:
    """Remove the copy of the addresses that mlx.launch made for this rank, and would leave behind on every host."""
    copy = Path(os.environ.get("MLX_HOSTFILE", ""))
    if copy.name.startswith("tmp."):
        copy.unlink(missing_ok=True)


def _lead(link: Collectives, rendezvous: Path, backend: str) -> int:
    from ollmlx.runner import serve, start_logging
    from ollmlx_cluster.engine import ClusterEngine

    with LauncherConnection(rendezvous) as launcher:
        config, fd = launcher.receive()
        start_logging(config.log_level)
        link.tell({"config": config.model_dump(mode="json")})
        ClusterEngine.link = link
        if backend not in pulse.DEAF:
            ClusterEngine.launcher = launcher
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        code = serve(config, "ollmlx_cluster.engine:ClusterEngine", listener)
        launcher.say(f"exit {code}")
    return code


def _follow(link: Collectives) -> int:
    from ollmlx.errors import OllmlxError
    from ollmlx_cluster.shard import ModelShard

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    config = RunnerConfig.model_validate(link.tell()["config"])
    try:
        share = ModelShard.load(config, link, str(config.engine_options.get("mode", "tensor")))
    except OllmlxError as error:
        sys.stderr.write(f"rank {link.rank}: {error.message}\n")
        return ExitCode.BAD_MODEL
    link.gather(1)
    with contextlib.suppress(KeyboardInterrupt):
        while not (job := link.tell()).get("close"):
            if job.get("sleep"):
                pulse.sleep()
            else:
                share.follow(job["tokens"])
    return ExitCode.ASKED


if __name__ == "__main__":
    main()
