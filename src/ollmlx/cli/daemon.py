"""The verbs of the daemon itself: serve, logs and version."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from textwrap import indent

from ollmlx import __version__
from ollmlx.cli.terminal import is_terminal, note, say
from ollmlx.errors import Forbidden, NotFound
from ollmlx.text.controls import escape_line

LOG = "logs/daemon.log"
"""The daemon's log in the state folder."""


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = """Start the daemon in this terminal. Ctrl-C or SIGTERM stops it and every runner. SIGHUP makes
it read its settings again.

Settings come from the command line, OLLMLX_SECTION__KEY, Ollama's own variables and ollmlx.toml, in this order.
`ollmlx config` prints them."""
    parser.add_argument(
        "--models", dest="models_folder", metavar="FOLDER", help="the models folder; also OLLAMA_MODELS"
    )
    parser.add_argument(
        "--lan",
        action="store_true",
        help="serve the machines of this network: listen on every address, need a key, and print what clients set",
    )
    parser.add_argument("--stop", action="store_true", help="stop the daemon that runs, also one in the background")


async def run_serve(args: argparse.Namespace) -> int:
    if args.stop:
        return _stop(args)
    from ollmlx.cli.requirements import check_versions

    check_versions()  # before what may fail with another version is imported
    from ollmlx.app import build
    from ollmlx.cli.connection import load, options_of
    from ollmlx.cli.lan import client_lines, lan_overrides, own_address, page_address, qr_code
    from ollmlx.reload import reload
    from ollmlx.web.server.serve import run as listen

    if args.lan:
        args.extra_settings = lan_overrides(load(args).settings)
    loaded = load(args)
    if args.lan:
        for line in client_lines(loaded.settings, socket.gethostname(), own_address()):
            say(escape_line(line), flush=True)
        if (address := own_address()) and is_terminal(sys.stdout) and "utf" in (sys.stdout.encoding or "").lower():
            print(qr_code(page_address(loaded.settings, address)), flush=True)
    app = build(loaded, options=options_of(args))
    return await listen(app, lambda: reload(app, lambda: load(args)))


def _stop(args: argparse.Namespace) -> int:
    """End the daemon of the state folder as SIGTERM does, and wait until it is gone."""
    from ollmlx.cli.connection import settings
    from ollmlx.supervisor.process.state_folder import lock_owner

    state = settings(args).state_folder
    pid = lock_owner(state)
    if pid is None:
        raise NotFound(f"no daemon runs with the state folder {state}")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise Forbidden(f"the daemon (pid {pid}) belongs to another user", hint=f"sudo kill {pid}") from error
    while lock_owner(state) == pid:
        time.sleep(0.05)
    note(f"stopped (pid {pid})")
    return 0


def add_version_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_version(args: argparse.Namespace) -> int:
    from ollmlx.cli.client import NotRunning
    from ollmlx.cli.connection import connect

    client = connect(args)
    try:
        daemon = client.get("/api/version")
    except NotRunning:
        daemon = None
    if args.json:
        say(json.dumps({"client": __version__, "address": str(client.address), "daemon": daemon}))
        return 0
    say(f"ollmlx version {__version__}")
    if daemon is None:
        say(f"daemon: none answers at {client.address}")
    else:
        ours = f" (ollmlx {daemon['ollmlx']})" if "ollmlx" in daemon else ""
        say(f"daemon: API version {daemon['version']}{ours} at {client.address}")
    return 0


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runner", metavar="RUNNER", nargs="?", help="print only lines that name this model or runner")
    parser.add_argument("-f", "--follow", action="store_true", help="continue to print new lines until Ctrl-C")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=int, default=200, help="begin with the last N lines (default: 200)"
    )
    parser.add_argument("--json", action="store_true", help="print the lines as they are stored")


def run_logs(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import settings

    file = settings(args).state_folder / LOG
    if not file.is_file():
        raise NotFound(f"there is no log at {file}", hint="ollmlx serve writes it, unless [logging] file is false")
    wanted = [line for line in stored_lines(file) if mentions(line, args.runner)]
    for line in wanted[max(0, len(wanted) - args.lines) :]:
        say(line if args.json else readable(line))
    if args.follow:
        sys.stdout.flush()
        for line in new_lines(file):
            if mentions(line, args.runner):
                say(line if args.json else readable(line), flush=True)
    return 0


def stored_lines(file: Path) -> Iterator[str]:
    """Yield the lines of the log, those of rotated files first."""
    for path in (*(file.with_name(f"{file.name}.{number}") for number in (3, 2, 1)), file):
        if path.is_file():
            yield from path.read_text("utf-8", "replace").splitlines()


def new_lines(file: Path) -> Iterator[str]:
    """Yield lines as they are written, across rotations, without end."""
    stream = file.open(encoding="utf-8", errors="replace")
    stream.seek(0, 2)
    unfinished = ""
    try:
        while True:
            piece = stream.readline()
            if piece.endswith("\n"):
                yield unfinished + piece[:-1]
                unfinished = ""
            elif piece:
                unfinished += piece
            elif _rotated(file, stream.fileno()):
                stream.close()
                stream = file.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(0.2)
    finally:
        stream.close()


def _rotated(file: Path, descriptor: int) -> bool:
    import os

    try:
        return file.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False  # a rotation is under way


def mentions(line: str, runner: str | None) -> bool:
    """Return True if a line has a runner's id or its model's name as a whole word."""
    if runner is None:
        return True
    return re.search(rf"(?<![\w.-]){re.escape(runner)}(?![\w-]|\.\w)", line, re.IGNORECASE) is not None


def readable(line: str) -> str:
    """Return a stored line as text: time, level, message, request. A line that is not JSON is returned unchanged."""
    try:
        record = json.loads(line)
        clock = datetime.fromisoformat(record["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level, message = str(record["level"]).upper(), escape_line(str(record["message"]))
    except (ValueError, KeyError, TypeError):
        return line
    request = record.get("request")
    suffix = f" request={request}" if request and f"request={request}" not in message else ""
    trace = record.get("traceback")
    return f"{clock} {level:<7} {message}{suffix}" + (f"\n{indent(trace, '  ')}" if trace else "")
