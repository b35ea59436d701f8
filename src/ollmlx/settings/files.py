"""The settings file: where it may be, and on which line each of its keys is set.

A client command calls `find_file` before it decides whether to read settings at all, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ollmlx.errors import StorageError

FILE_NAME = "ollmlx.toml"
STATE_FOLDER = Path("~/.ollmlx")
"""The folder of private files, unless the settings name another."""
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8 with a byte order mark", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
LARGEST = 1 << 20
MOST_PARSED = 2 * LARGEST
"""Characters that are parsed to find the lines of keys; a statement of several lines is parsed with each of them."""
_HEADER = re.compile(r"\s*\[{1,2}.*")
_POSITION = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")


class NotToml(ValueError):
    """The text of a settings file is not TOML. `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


class SettingsFile(NamedTuple):
    """A settings file, and the name by which messages call it. `found`: it lies in the working directory, unasked."""

    path: Path
    shown: str
    found: bool = False


def find_file(config: Path | None, environ: Mapping[str, str], cwd: Path) -> SettingsFile | None:
    """Find the settings file, or None.

    The file of `--config` or OLLMLX_CONFIG is returned even if it does not exist; otherwise the first file that does.
    """
    asked = str(config) if config is not None else environ.get("OLLMLX_CONFIG", "").strip()
    if asked:
        return SettingsFile(cwd / Path(asked).expanduser(), asked)
    own, here = user_file(environ), cwd / FILE_NAME
    if _is_there(here) and (own is None or here != own.path):
        return SettingsFile(here, FILE_NAME, found=True)
    return own


def working_folder() -> Path:
    """Return the working directory; in place of one that was removed, a path below which there is nothing."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.devnull)


def user_file(environ: Mapping[str, str]) -> SettingsFile | None:
    """The person's own settings file, if there is one."""
    home = environ.get("HOME") or str(Path.home())
    path = Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "ollmlx" / FILE_NAME
    return SettingsFile(path, str(path)) if _is_there(path) else None


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def private_file(state: Path, name: str) -> Path:
    """Return a private file of the state folder; make it if there is none. Raises StorageError (STO002)."""
    path = state / name
    try:
        for folder in (state, path.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # `mode` is not for parents
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        problem = f"cannot use the state folder {state}: {error.strerror}"
        raise StorageError(problem, code="STO002", hint="ollmlx doctor storage") from error
    return path


def parse_toml(data: bytes) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Parse a settings file; return its tables and the line of each table and key. Raises NotToml."""
    if len(data) > LARGEST:
        raise NotToml(f"the file has more than {LARGEST} bytes", 1, 1)
    for mark, name in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise NotToml(f"the file is saved as {name}; save it as plain UTF-8", 1, 1)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise NotToml("the file is not UTF-8", before.count(b"\n") + 1, column) from error
    try:
        return tomllib.loads(text), key_lines(text)
    except RecursionError:
        raise NotToml("it is nested too deeply", 1, 1) from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text) from error


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line (from 1) of each table and key of a valid TOML text; a statement of several lines counts from its first.

    `tomllib` does not report lines, so each statement is parsed alone: lines are added until they parse. Keys after
    MOST_PARSED characters have no line.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    pending: list[str] = []
    start = work = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not pending:
            start = number
        pending.append(line)
        work += sum(map(len, pending))
        if work > MOST_PARSED:
            break
        try:
            parsed = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue  # the statement continues on the next line
        if len(pending) == 1 and _HEADER.fullmatch(line):
            table = max(_paths(parsed), key=len)
            found.setdefault(table, start)
        else:
            for path in _paths(parsed):
                found.setdefault(table + path, start)
        pending = []
    return found


def _paths(table: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of each key of a table, at every depth."""
    paths = []
    for key, value in table.items():
        paths.append((*prefix, key))
        if isinstance(value, dict):
            paths += _paths(value, (*prefix, key))
    return paths


def _syntax_error(message: str, text: str) -> NotToml:
    match = _POSITION.search(message)
    if match is None:  # "at end of document"
        lines = text.rstrip("\n").split("\n")
        return NotToml(message.removesuffix(" (at end of document)"), len(lines), len(lines[-1]) + 1)
    return NotToml(message[: match.start()], int(match.group(1)), int(match.group(2)))
