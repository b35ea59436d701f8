"""`ollmlx logs`: the daemon's log, whole or of one runner."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ollmlx.errors import NotFound

LOG = "logs/daemon.log"  # in the state folder
ROTATED = 3
POLL = 0.2  # seconds between two looks of --follow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runner", metavar="RUNNER", nargs="?", help="only lines that name this model or runner")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing until Ctrl-C")
    parser.add_argument("-n", "--lines", metavar="N", type=int, default=200, help="begin N lines back (default: 200)")
    parser.add_argument("--json", action="store_true", help="print the lines as they are kept")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.configured import settings

    file = settings(args).state_folder / LOG
    if not file.is_file():
        raise NotFound(f"there is no log at {file}", hint="ollmlx serve writes it, unless [logging] file is false")
    wanted = [line for line in kept_lines(file) if names(line, args.runner)]
    for line in wanted[max(0, len(wanted) - args.lines) :]:
        print(line if args.json else readable(line))
    if args.follow:
        sys.stdout.flush()
        for line in new_lines(file):
            if names(line, args.runner):
                print(line if args.json else readable(line), flush=True)
    return 0


def kept_lines(file: Path) -> Iterator[str]:
    """The lines of the log, those of rotated files first."""
    for path in (*(file.with_name(f"{file.name}.{number}") for number in range(ROTATED, 0, -1)), file):
        if path.is_file():
            yield from path.read_text("utf-8", "replace").splitlines()


def new_lines(file: Path) -> Iterator[str]:
    """Lines as they are written, across rotations, until the reader leaves."""
    stream = file.open(encoding="utf-8", errors="replace")
    stream.seek(0, 2)
    begun = ""
    try:
        while True:
            piece = stream.readline()
            if piece.endswith("\n"):
                yield begun + piece[:-1]
                begun = ""
            elif piece:
                begun += piece
            elif _rotated(file, stream.fileno()):
                stream.close()
                stream = file.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(POLL)
    finally:
        stream.close()


def _rotated(file: Path, descriptor: int) -> bool:
    import os

    try:
        return file.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False  # between the two renames of a rotation


def names(line: str, runner: str | None) -> bool:
    """Whether a line is about a runner: its id, or its model's name, as a word of its own."""
    if runner is None:
        return True
    return re.search(rf"(?<![\w.-]){re.escape(runner)}(?![\w-]|\.\w)", line, re.IGNORECASE) is not None


def readable(line: str) -> str:
    """A kept line for people: clock, level, message, request. A line that is no JSON stays as it is."""
    try:
        record = json.loads(line)
        clock = datetime.fromisoformat(record["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level, message = str(record["level"]).upper(), str(record["message"])
    except (ValueError, KeyError, TypeError):
        return line
    request = record.get("request")
    told = f" request={request}" if request and f"request={request}" not in message else ""
    trace = record.get("traceback")
    return f"{clock} {level:<7} {message}{told}" + (f"\n{trace}" if trace else "")
