"""Pictures and sounds in a prompt: paths that a person typed, or dropped on the terminal, become files to send."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Final

from ollmlx.cli.client import Client
from ollmlx.cli.terminal import note
from ollmlx.errors import InvalidRequest

MOST_BYTES: Final = 48 << 20
PICTURES: Final = "png|jpe?g|webp|gif|hei[cf]"
SOUNDS: Final = "wav|mp3|flac|og[ga]|opus|m4a"
_PATH: Final = re.compile(
    rf"""(?P<quote>['"])(?P<quoted>(?:~|\.{{1,2}})?/[^'"\n]+?\.(?:{PICTURES}|{SOUNDS}))(?P=quote)"""
    rf"""|(?<!\S)(?P<bare>(?:~|\.{{1,2}})?/(?:\\.|[^\s\\])+?\.(?:{PICTURES}|{SOUNDS}))(?![\w/])""",
    re.IGNORECASE,
)
"""A path that begins with `/`, `./`, `../` or `~/`: in quotes, or as dropped files are, with backslashes."""
_SOUND: Final = re.compile(rf"\.(?:{SOUNDS})$", re.IGNORECASE)


def take_media(client: Client, model: str, text: str) -> tuple[str, list[str]]:
    """Return a prompt without the paths of pictures and sounds, and these in base64; what the model perceives of them.

    A path where no file is stays text. Raises InvalidRequest for a file that cannot be read.
    """
    found = [(match[0], file) for match in _PATH.finditer(text) if (file := _file(match)) is not None]
    able = client.post("/api/show", {"model": model}).get("capabilities", ()) if found else ()
    taken = [(written, file) for written, file in found if ("audio" if is_sound(file) else "vision") in able]
    for written, _ in taken:
        text = text.replace(written, "", 1)
    return text.strip() if taken else text, [_read(file) for _, file in taken]


def is_sound(file: Path) -> bool:
    return _SOUND.search(file.name) is not None


def quoted(word: str) -> str:
    """Return a word of the command line as `take_media` finds it, if it is the path of a picture or of a sound."""
    path = word if _PATH.fullmatch(f"'{word}'") else f"./{word}"
    named = _PATH.fullmatch(f"'{path}'")
    if named is None or (path != word and _file(named) is None):
        return word
    return f"'{path}'" if re.search(r"\s", path) else path


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
    note(f"added {'audio' if is_sound(file) else 'image'} {file}")
    return b64encode(data).decode()
