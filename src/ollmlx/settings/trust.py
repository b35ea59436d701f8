"""Trust in the settings file of the working directory: whose it must be, and what it may set before it is trusted.

A person may stand in a folder that a stranger filled: a download, a checkout, a shared folder. Its settings file is
used only if nobody else can write it. Keys that run code, choose where keys are sent, or choose folders also need one
`ollmlx config trust`, which remembers the file's path and the digest of its content, as direnv does.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from ollmlx.settings.keys import KeyPath

TRUSTED = "trusted.json"
RESTRICTED: tuple[KeyPath, ...] = (
    ("plugins",), ("server", "host"), ("server", "hosts"), ("server", "origins"), ("storage", "models"),
    ("storage", "state"), ("security",), ("runners", "sandbox"), ("logging", "prompts"), ("models", "*", "cluster"),
)  # fmt: skip
"""Keys, and whole tables, that the file of a working directory may set only if it is trusted."""


def refusal(path: Path) -> str | None:
    """Return why the settings file of a folder is not used; None if it and the folder are its caller's alone."""
    for what, each in (("its folder", path.parent), ("it", path)):
        try:
            found = each.stat()
        except OSError:  # reading the file reports the reason
            return None
        if each == path and not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
            return "it is no regular file"
        if found.st_uid != os.geteuid():
            return f"{what} belongs to another user"
        if found.st_mode & 0o002 or (found.st_mode & 0o020 and not _is_own_group(found.st_gid)):
            return f"other users can write {'to ' if each != path else ''}{what}"
    return None


def restricted_part(path: KeyPath) -> KeyPath | None:
    """Return the key or table of this path that only a trusted file may set; None if any file may."""
    for key in RESTRICTED:
        part = path[: len(key)]
        if len(part) == len(key) and all(wanted in ("*", given) for wanted, given in zip(key, part, strict=True)):
            return part
    return None


class TrustedFiles:
    """The files that a person has trusted, in the state folder: path and sha256 of each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = Path(environ.get("HOME") or Path.home())
        given = environ.get("OLLMLX_STORAGE__STATE", "").strip()
        # The folder of the settings file in question plays no part: it could name a folder with its own answer.
        state = home / given.removeprefix("~/") if given.startswith("~/") else Path(given or home / ".ollmlx")
        self._file = state / TRUSTED

    def all(self) -> dict[str, str]:
        """The digest of each trusted file by its path; nothing if the record cannot be read."""
        try:
            known = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(path): str(digest) for path, digest in known.items()} if isinstance(known, dict) else {}

    def has(self, path: Path, content: bytes) -> bool:
        """Return whether this file with this content is trusted."""
        return self.all().get(str(path.resolve())) == _digest(content)

    def add(self, path: Path) -> None:
        """Trust a file as it is now. Raises OSError."""
        self._write({**self.all(), str(path.resolve()): _digest(path.read_bytes())})

    def remove(self, path: Path) -> bool:
        """Trust a file no longer. Returns False if it was not trusted. Raises OSError."""
        known = self.all()
        if known.pop(str(path.resolve()), None) is None:
            return False
        self._write(known)
        return True

    def _write(self, known: Mapping[str, str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._file.with_name(f".{TRUSTED}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(known, file, indent=2)
        fresh.replace(self._file)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_own_group(gid: int) -> bool:
    """Return whether a group is the caller's private one, which many systems give each user: no one else is in it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
