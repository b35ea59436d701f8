"""`python -m ollmlx_cluster.rank --socket PATH`: one rank of a group. mlx.launch starts it on every host.

Rank 0 gets the daemon's listening socket and the configuration from the launcher's socket at PATH, and serves. The
other ranks get the configuration from rank 0 and make the same passes. A rank that loses the others, or the launcher,
ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner import confine, enter, files_of, tie
from ollmlx_cluster import messages
from ollmlx_cluster.hosts import AGENT
from ollmlx_cluster.messages import LauncherConnection

if TYPE_CHECKING:
    from ollmlx_cluster.shard import Collectives


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m ollmlx_cluster.rank")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--silence", required=True, type=float)
    parser.add_argument("--sandbox", default="off")
    parser.add_argument("--model", required=True, type=Path)
    given = parser.parse_args()
    tie()
    confine()
    unconfined = enter(files_of(given.model), (Path(tempfile.gettempdir()),), given.sandbox)
    # When a rank is lost, mlx.launch terminates all others. Rank 0 ignores that and lets the launcher end it: otherwise
    # its clients would be told that the runner is closing. All threads inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    messages.start(given.silence, given.backend)
    os.environ.pop(AGENT, None)

    import mlx.core as mx

    from ollmlx_cluster.shard import Collectives

    collectives = Collectives(mx.distributed.init(strict=True, backend=given.backend))
    _remove_host_file()
    try:
        leads = collectives.leads
        code = _lead(collectives, given.socket, given.backend, unconfined) if leads else _follow(collectives)
    except RuntimeError as error:
        sys.stderr.write(f"rank {collectives.rank} lost the group: {error}\n")
        code = ExitCode.INTERNAL
    sys.stderr.flush()
    os._exit(code)


def _remove_host_file() -> None:
    """Remove the copy of the host file that mlx.launch made for this rank and does not remove."""
    copy = Path(os.environ.get("MLX_HOSTFILE", ""))
    if copy.name.startswith("tmp."):
        copy.unlink(missing_ok=True)


def _lead(collectives: Collectives, path: Path, backend: str, unconfined: tuple[str, ...]) -> int:
    from ollmlx.runner import serve, start_logging
    from ollmlx_cluster.engine import ClusterEngine

    launcher = LauncherConnection(path)
    config, fd = launcher.receive()
    start_logging(config.log_level)
    collectives.broadcast_json({"config": config.model_dump(mode="json")})
    ClusterEngine.collectives = collectives
    if backend not in messages.WITHOUT_INPUT:
        ClusterEngine.launcher = launcher
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    code = serve(config, "ollmlx_cluster.engine:ClusterEngine", listener, unconfined)
    launcher.send(f"exit {code}")
    return code


def _follow(collectives: Collectives) -> int:
    from ollmlx.errors import OllmlxError
    from ollmlx_cluster.shard import ModelShard

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    config = RunnerConfig.model_validate(collectives.broadcast_json()["config"])
    try:
        shard = ModelShard.load(config, collectives, str(config.engine_options.get("mode", "tensor")))
    except OllmlxError as error:
        sys.stderr.write(f"rank {collectives.rank}: {error.message}\n")
        return ExitCode.BAD_MODEL
    collectives.gather(1)
    with contextlib.suppress(KeyboardInterrupt):
        while not (job := collectives.broadcast_json()).get("close"):
            if job.get("sleep"):
                messages.wait_until_woken()
            else:
                shard.follow(job["tokens"])
    return ExitCode.ASKED


if __name__ == "__main__":
    main()
