"""The text of PDF documents, read by pypdf in a process of its own: a hostile file can take its time and memory only.

`python -m ollmlx_anthropic_api.pdf` reads a file from standard input and writes its text.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from typing import Final

from ollmlx.errors import InvalidRequest

SECONDS: Final = 60
"""Processor time that reading one document may take, and the wait for it."""
MEMORY: Final = 1 << 30
"""Bytes that reading one document may take."""
LONGEST: Final = 4 << 20
"""Bytes of text that are read of one document; a longer one is refused."""
KEPT: Final = 16
"""Documents whose text is kept."""
KEPT_VARIABLES: Final = ("PATH", "LANG", "HOME")


_texts: dict[bytes, str] = {}
"""The texts of the latest documents, by digest: every turn of a conversation brings its documents again."""


def pdf_text(data: bytes) -> str:
    """Return the text of a PDF file, page after page. Blocks. Raises InvalidRequest for a file that has none."""
    digest = hashlib.sha256(data).digest()
    text = _texts.pop(digest, None) or _read_apart(data)
    _texts[digest] = text
    while len(_texts) > KEPT:
        _texts.pop(next(iter(_texts)), None)
    return text


def _read_apart(data: bytes) -> str:
    argv = [sys.executable, "-P", "-m", "ollmlx_anthropic_api.pdf"]
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=SECONDS, check=False, env=kept, cwd=os.sep)
    except subprocess.TimeoutExpired:
        raise InvalidRequest("messages: a PDF document takes too long to read") from None
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [
            "it needs too much time or memory"
        ]
        raise InvalidRequest(f"messages: a PDF document cannot be read: {reason[0][:200]}")
    if len(done.stdout) > LONGEST:
        raise InvalidRequest(f"messages: a PDF document has more than {LONGEST} bytes of text")
    text = done.stdout.decode("utf-8", "replace")
    if not text.strip():
        raise InvalidRequest("messages: a PDF document has no text; send its pages as images")
    return text


def main() -> int:
    """Write the text of the file on standard input."""
    for limit, value in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY)):
        resource.setrlimit(limit, (value, value))
    try:
        text = _read(sys.stdin.buffer.read())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, its reason is told
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    return 0


def _read(data: bytes) -> str:
    import io
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        raise ValueError("it is encrypted")
    pages: list[str] = []
    size = 0
    for page in reader.pages:
        pages.append(page.extract_text())
        size += len(pages[-1])
        if size > LONGEST:
            break
    return "\n\n".join(pages)


if __name__ == "__main__":
    sys.exit(main())
