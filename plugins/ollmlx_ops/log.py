"""The end of the daemon's log file, for the web page. The lines are JSON, as `ollmlx logs --json` prints them."""

from __future__ import annotations

from pathlib import Path

FILE = "logs/daemon.log"  # in the state folder
READ = 512 * 1024
"""Bytes at the end of the file that are searched for lines."""


def last_lines(file: Path, count: int, words: str = "") -> list[str]:
    """Return at most `count` lines at the end of the file that contain the words; nothing when there is no file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - READ))
            lines = stream.read(READ).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    whole = lines if size <= READ else lines[1:]  # the first one may have lost its beginning
    return [line for line in whole if words in line][-count:]
