"""Outlines: the headers of files that are not downloaded, in files of their full length that are empty otherwise.

An outline is described, and its memory estimated, as if the model were here; so a pull can be judged before it begins.
The files are sparse: a model of 40 GB takes some megabytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ollmlx.errors import StorageError, UpstreamError
from ollmlx.formats.gguf import read_gguf_header
from ollmlx.formats.safetensors import read_safetensors_header
from ollmlx.model.installed import InstalledModel, PullCandidate
from ollmlx.model.names import ModelName
from ollmlx.storekit.download import follow_redirects
from ollmlx.storekit.files import list_files, storage_errors
from ollmlx.storekit.folder_description import describe_folder
from ollmlx.storekit.gguf_description import LONGEST_ARRAY, describe_gguf
from ollmlx.storekit.threads import to_transfer_thread

if TYPE_CHECKING:
    import httpx2

HEADS: Final = (1 << 20, 8 << 20, 24 << 20)
"""Bytes of a file that are fetched until its header is whole. Each is held in memory; real headers have 1 to 15 MiB."""


async def fetch_outline(
    client: httpx2.AsyncClient, url: str, target: Path, *, size: int, headers: Mapping[str, str] | None = None
) -> None:
    """Write the outline of a GGUF or safetensors file of `size` bytes to `target`; of another file its first MiB.

    Raises UpstreamError, StorageError for a file that has no readable header.
    """
    arrived = 0
    with storage_errors(f"cannot write {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        for head in HEADS:
            wanted = min(head, size)
            data = await _range(client, url, arrived, wanted, headers or {})
            await to_transfer_thread(_write, target, arrived, data, size)
            arrived = wanted
            try:
                await to_transfer_thread(_check, target)
                break
            except StorageError:
                if arrived in (size, HEADS[-1]):
                    raise


async def _range(client: httpx2.AsyncClient, url: str, start: int, end: int, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a file from `start` to before `end`, also of a server that sends it from its beginning."""
    import httpx2

    asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={start}-{max(start, end - 1)}"}
    data = bytearray()
    try:
        async with follow_redirects(client, url, asked) as response:
            if response.status_code not in (200, 206):
                raise UpstreamError(f"{response.request.url.host} answered {response.status_code}", code="NET005")
            skipped = start if response.status_code == 200 else 0
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) >= skipped + end - start:
                    break
    except httpx2.TransportError as error:
        raise UpstreamError(f"{type(error).__name__}: {error}", code="NET005") from error
    del data[:skipped]
    return bytes(data[: end - start])


def _write(target: Path, start: int, data: bytes, size: int) -> None:
    with target.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.write(data)
    os.truncate(target, size)


def _check(path: Path) -> None:
    """Raise StorageError if the header of a file is not whole. The bytes that have not come yet read as zeros."""
    if path.suffix == ".gguf":
        read_gguf_header(path, longest=LONGEST_ARRAY)
    elif path.suffix == ".safetensors":
        read_safetensors_header(path)


def outlined_model(name: ModelName, candidate: PullCandidate) -> InstalledModel | None:
    """Return the model that an outline describes; None for a candidate without one. Raises StorageError."""
    path = candidate.path
    if path is None:
        return None
    if path.is_dir():
        described = describe_folder(path, list_files(path, path), candidate.origin)
    else:
        projectors = [candidate.projector] if candidate.projector else []
        header, *beside = (read_gguf_header(each, longest=LONGEST_ARRAY) for each in (path, *projectors))
        described = describe_gguf(header, projectors=beside)
        with_projector = described.defaults.model_copy(update={"projector": candidate.projector})
        described = replace(described, defaults=with_projector)
    return InstalledModel(
        **vars(described),
        name=name,
        store="",
        path=path,
        digest=hashlib.sha256(candidate.origin.encode()).hexdigest(),
        size=candidate.size,
        modified_at=datetime.now(UTC),
        source=candidate.origin,
    )
