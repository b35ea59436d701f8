"""What a source leaves beside the files it fetched, so that a store can check them and say where they came from."""

from __future__ import annotations

from ollmlx.model.frozen import Frozen


class FetchedFile(Frozen):
    """One file, relative to the folder: bytes, sha256 (64 hexadecimal digits), modification time when it was checked.

    `etag` is the source's own identity of the content (a hub's LFS or git object id).
    """

    path: str
    size: int
    sha256: str
    mtime_ns: int = 0
    etag: str = ""


class FetchReceipt(Frozen):
    """All files of one fetch. `source` reads `hub:org/name@main`; `revision` names the exact content, for ever."""

    source: str
    revision: str = ""
    license: str = ""
    files: tuple[FetchedFile, ...] = ()


RECEIPT = ".ollmlx-fetch.json"
"""In the folder given to `Source.fetch`: written by the source when everything is there and verified."""

INSTALLED = ".ollmlx-installed.json"
"""In the same folder, written by the store beforehand: the receipt of what is installed now, if anything is.
A source that would fetch exactly this may write it again as its own receipt and end at once."""
