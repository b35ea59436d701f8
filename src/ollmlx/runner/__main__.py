"""`python -m ollmlx.runner --engine package.module:Class --fd N [--parent PID]`, as the daemon starts it."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import NoReturn

from ollmlx.runner import parent


def _arguments() -> tuple[str, int, int | None]:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m ollmlx.runner", description=__doc__)
    parser.add_argument("--engine", required=True, help="the engine's class, as package.module:Class")
    parser.add_argument("--fd", required=True, type=int, help="the inherited, listening socket")
    parser.add_argument("--parent", type=int, help="process id of the daemon: exit when it is not our parent")
    try:
        given = parser.parse_args()
    except SystemExit as end:
        _exit(64 if end.code else 0)  # ExitCode.USAGE; argparse uses 2
    return given.engine, given.fd, given.parent


def main() -> NoReturn:
    """Tie the process to its parent, then import what is slow, and serve."""
    engine, fd, expected_parent = _arguments()
    pid = parent.tie(expected_parent)
    parent.confine()
    faulthandler.enable()
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    from ollmlx.runner.startup import CannotStart, listening_socket, read_config, start_logging

    try:
        config = read_config()
        from ollmlx.runner import sandbox

        mode = os.environ.get(sandbox.VARIABLE)
        unconfined = sandbox.confine(config, engine, mode) if mode else ()
        parent.watch(pid)
        start_logging(config.log_level)
        listener = listening_socket(fd)
        from ollmlx.runner.server import serve

        code = serve(config, engine, listener, unconfined)
    except CannotStart as failure:
        os.write(2, f"{failure}\n".encode("utf-8", "replace"))
        code = failure.code
    _exit(code)


def _exit(code: int) -> NoReturn:
    # A compute thread that is stuck in native code would hold up the interpreter's own shutdown for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
