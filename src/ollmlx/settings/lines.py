"""On which line of a TOML text each key is set, which `tomllib` does not tell. Pure."""

from __future__ import annotations

import re
import tomllib
from typing import Any

KeyPath = tuple[str, ...]
_HEADER = re.compile(r"\s*\[{1,2}.*")
_AT = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of each table and key of a valid TOML text; a long statement counts from its first line."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    pending: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not pending:
            start = number
        pending.append(line)
        try:
            parsed = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue  # the statement goes on in the next line
        if len(pending) == 1 and _HEADER.fullmatch(line):
            table = _only_path(parsed)
            found.setdefault(table, start)
        else:
            for path in _paths(parsed):
                found.setdefault(table + path, start)
        pending = []
    return found


def error_place(error: tomllib.TOMLDecodeError, text: str) -> tuple[str, int, int]:
    """The message of a syntax error without its place, its line and its column; "end of document" is a place too."""
    message = str(error)
    match = _AT.search(message)
    if match is None:
        lines = text.rstrip("\n").split("\n")
        return message.removesuffix(" (at end of document)"), len(lines), len(lines[-1]) + 1
    return message[: match.start()], int(match.group(1)), int(match.group(2))


def _only_path(table: dict[str, Any]) -> KeyPath:
    path: list[str] = []
    value: Any = table
    while isinstance(value, dict) and value:
        key = next(iter(value))
        path.append(key)
        value = value[key]
    return tuple(path)


def _paths(table: dict[str, Any], prefix: KeyPath = ()) -> list[KeyPath]:
    paths = []
    for key, value in table.items():
        path = (*prefix, key)
        paths.append(path)
        if isinstance(value, dict):
            paths += _paths(value, path)
    return paths
