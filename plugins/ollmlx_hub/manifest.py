"""The manifest of an installed model: what it is called, where it came from, and every file's size and sha256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ValidationError

from ollmlx import ModelName
from ollmlx.errors import StorageError
from ollmlx.types import FetchedFile, FetchReceipt, Frozen, ModelDefaults
from ollmlx_hub.layout import MANIFEST, FoundFile

MAX_MANIFEST = 16 << 20
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
"""A time of Python's own zone: pydantic's zones, which outlive their class when Python ends, can crash it there
(pydantic issue 12867)."""


class Manifest(Frozen):
    """`ollmlx.json`. `base` is the model it was made over; `defaults` hold only what somebody stated."""

    version: Literal[1] = 1
    name: ModelName
    source: str = "local"
    revision: str = ""
    license: str = ""
    created: Moment
    base: str = ""
    files: tuple[FetchedFile, ...] = ()
    defaults: ModelDefaults = ModelDefaults()

    def receipt(self) -> FetchReceipt:
        """What a source needs to know of an earlier fetch."""
        return FetchReceipt(source=self.source, revision=self.revision, license=self.license, files=self.files)

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        data = self.model_dump(mode="json", exclude={"defaults"})
        data["defaults"] = self.defaults.model_dump(mode="json", exclude_unset=True)
        _write(folder / MANIFEST, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None for one copied there by hand. Raises StorageError when it is damaged."""
    data = _read(folder / MANIFEST)
    if data is None:
        return None
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise StorageError(
            f"{folder.name}/{MANIFEST} is damaged: {error.errors()[0]['msg']}",
            code="MDL003",
            hint="remove this file if you copied the folder by hand, else pull the model again",
        ) from error


def read_receipt(path: Path) -> FetchReceipt | None:
    """A receipt, or None when there is none that can be read: then files are checked again."""
    try:
        data = _read(path)
        return FetchReceipt.model_validate_json(data) if data is not None else None
    except (StorageError, ValidationError):
        return None


def write_receipt(path: Path, receipt: FetchReceipt) -> None:
    _write(path, receipt.model_dump_json())


def hashed(folder: Path, files: Iterable[FoundFile], known: Iterable[FetchedFile] = ()) -> tuple[FetchedFile, ...]:
    """Every file with its sha256; one whose size and time are as `known` says is not read again."""
    sure = {(file.path, file.size, file.mtime_ns): file for file in known}
    return tuple(
        sure.get((file.path, file.size, file.mtime_ns))
        or FetchedFile(path=file.path, size=file.size, mtime_ns=file.mtime_ns, sha256=sha256_of(folder / file.path))
        for file in files
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(parts: dict[str, Any]) -> str:
    """64 hexadecimal digits of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path.parent.name}/{path.name}: {error.strerror}", code="MDL003") from error
    if len(data) > MAX_MANIFEST:
        raise StorageError(f"{path.parent.name}/{path.name} is too large", code="MDL003")
    return data


def _write(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.new")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
