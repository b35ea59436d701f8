"""Pictures in a prompt: paths that a person typed, or dropped on the terminal, become pictures of the request."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Final

from ollmlx.cli.client import Client
from ollmlx.cli.terminal import note
from ollmlx.errors import InvalidRequest

MOST_BYTES: Final = 48 << 20
_PATH: Final = re.compile(
    r"""(?P<quote>['"])(?P<quoted>(?:~|\.{1,2})?/[^'"\n]+?\.(?:png|jpe?g|webp|gif|hei[cf]))(?P=quote)"""
    r"""|(?<!\S)(?P<bare>(?:~|\.{1,2})?/(?:\\.|[^\s\\])+?\.(?:png|jpe?g|webp|gif|hei[cf]))(?![\w/])""",
    re.IGNORECASE,
)
"""A path that begins with `/`, `./`, `../` or `~/`: in quotes, or as dropped files are, with backslashes."""


def take_pictures(client: Client, model: str, text: str) -> tuple[str, list[str]]:
    """Return a prompt without the paths of pictures, and the pictures in base64; of a model that sees.

    A path where no file is stays text. Raises InvalidRequest for a file that cannot be read.
    """
    found = [(match[0], file) for match in _PATH.finditer(text) if (file := _file(match)) is not None]
    if not found or "vision" not in client.post("/api/show", {"model": model}).get("capabilities", ()):
        return text, []
    for written, _ in found:
        text = text.replace(written, "", 1)
    return text.strip(), [_read(file) for _, file in found]


def quoted(word: str) -> str:
    """Return a word of the command line in quotes if it is the path of a picture and has spaces."""
    return f"'{word}'" if re.search(r"\s", word) and _PATH.fullmatch(f"'{word}'") else word


def _file(match: re.Match[str]) -> Path | None:
    path = match["quoted"] or re.sub(r"\\(.)", r"\1", match["bare"])
    try:
        file = Path(path).expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a null character
        return None


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InvalidRequest(f"{file} has more than {MOST_BYTES >> 20} MiB")
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror or error}") from error
    note(f"added image {file}")
    return b64encode(data).decode()
