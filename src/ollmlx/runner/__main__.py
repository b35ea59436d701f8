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
    except SystemExit as asked:
        _leave(64 if asked.code else 0)  # ExitCode.USAGE; argparse says 2
    return given.engine, given.fd, given.parent


def main() -> NoReturn:
    """The first acts bind us to the parent; everything slow is imported after them."""
    engine, fd, expected = _arguments()
    pid = parent.tie(expected)
    parent.confine()
    faulthandler.enable()
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    from ollmlx.runner import logs
    from ollmlx.runner.startup import CannotStart, listening_socket, read_config

    try:
        config = read_config()
        parent.watch(pid)
        logs.start(config.log_level)
        listener = listening_socket(fd)
        from ollmlx.runner.harness import serve

        code = serve(config, engine, listener)
    except CannotStart as failure:
        os.write(2, f"{failure}\n".encode("utf-8", "replace"))
        code = failure.code
    _leave(code)


def _leave(code: int) -> NoReturn:
    # A compute thread stuck in native code would hold up the interpreter's own shutdown for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
