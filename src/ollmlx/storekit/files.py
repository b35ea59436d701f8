"""Files of models: read within bounds, hashed, linked and written whole. Errors of the system become StorageErrors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.formats.foreign import HEAD, foreign_content
from ollmlx.helper import run_limited
from ollmlx.model.installed import FetchedFile, FetchReceipt
from ollmlx.text.quantities import format_size

MAX_CONFIG = 1 << 20
MAX_JSON = 16 << 20
SMALL_JSON = 1 << 20
"""Bytes of JSON that are parsed without a helper process: some milliseconds of work."""
MAX_FILES = 4096
MAX_DEPTH = 3
SPARE_SPACE = 64 << 20
"""Bytes that a pull leaves free on the disk."""

_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*")


def storage_error(error: OSError, doing: str) -> StorageError:
    """Make a StorageError of an error of the file system. `doing`: what failed, such as "cannot write a.gguf"."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(f"{doing}: the disk is full", code="STO003", hint="ollmlx doctor storage")
    code = "STO002" if error.errno == errno.ENOTDIR else "STO004"
    return StorageError(f"{doing}: {error.strerror or error}", code=code, hint="ollmlx doctor storage")


def damaged(message: str) -> StorageError:
    """Return the error (MDL003) for a model whose files cannot be used."""
    return StorageError(message, code="MDL003", hint="ollmlx doctor storage")


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Raise a StorageError in place of every OSError of the block."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from error


# -- reading ---------------------------------------------------------------------------------------------------------


def read_bounded(path: Path, limit: int, shown: str) -> bytes | None:
    """Return the content of a regular file, or None if there is no such file.

    Raises StorageError (MDL003) for a file above `limit` bytes, for anything but a regular file, and for a file that
    cannot be read. `shown` is the file's name in these errors.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise damaged(f"{shown} is not a regular file")
        if found.st_size > limit:
            raise damaged(f"{shown} is too large")
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(f"cannot read {shown}: {error.strerror}") from error


def read_json(
    folder: Path, name: str, limit: int = MAX_JSON, keys: Iterable[str] | None = None
) -> dict[str, Any] | None:
    """Return a JSON object of a model's folder, or None if there is no such file. `keys`: those that are needed.

    Raises StorageError (MDL003) for a file above `limit` bytes and for one that is not a JSON object. A large file is
    parsed in a helper process; raises LimitExceeded if that reaches a limit.
    """
    shown = f"{folder.name}/{name}"
    data = read_bounded(folder / name, limit, shown)
    if data is None:
        return None
    wanted = None if keys is None else tuple(keys)
    if len(data) <= SMALL_JSON:
        return _json_object(data, shown, wanted)
    return run_limited(_json_object, data, shown, wanted, what=shown, code="MDL003")


def _json_object(data: bytes, shown: str, keys: tuple[str, ...] | None) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{shown} is not valid JSON") from error
    if not isinstance(content, dict):
        raise damaged(f"{shown} is not a JSON object")
    return content if keys is None else {key: content[key] for key in keys if key in content}


def read_json_list(folder: Path, name: str) -> list[Any] | None:
    """Return a small JSON list of a model's folder, or None if there is no such file. Raises StorageError (MDL003)."""
    shown = f"{folder.name}/{name}"
    data = read_bounded(folder / name, MAX_CONFIG, shown)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{shown} is not valid JSON") from error
    if not isinstance(content, list):
        raise damaged(f"{shown} is not a JSON list")
    return content


def require_json(folder: Path, name: str, limit: int = MAX_JSON) -> dict[str, Any]:
    """Return a JSON object of a model's folder. Raises StorageError (MDL003) if there is none."""
    content = read_json(folder, name, limit)
    if content is None:
        raise damaged(f"{folder.name} has no {name}")
    return content


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, order=True)
class FoundFile:
    """A regular file of a model. `path` is relative to the model's folder, with `/`; `size` is in bytes."""

    path: str
    size: int
    mtime_ns: int


def list_files(folder: Path, bounds: Path, omit: str = "") -> list[FoundFile]:
    """List a model's files, sorted by path, without hidden ones and without the file `omit` at the top.

    Raises StorageError (MDL003) for a link that leads out of `bounds`, for a pipe or a device, and for more than
    `MAX_FILES` files.
    """
    found = sorted(_walk(folder, "", folder.name, bounds, omit))
    if len(found) > MAX_FILES:
        raise damaged(f"{folder.name} holds more than {MAX_FILES} files")
    return found


def folder_state(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """Return what changes when a file of a folder, or of those in it, does. Where links lead is not checked: cheap.

    Raises OSError for a broken link.
    """
    found: list[tuple[str, int, int, int, int]] = []
    pending = [str(folder)]
    while pending and len(found) <= MAX_FILES:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    status = entry.stat()
                    found.append((entry.path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return tuple(sorted(found))


def _walk(folder: Path, prefix: str, top: str, bounds: Path, omit: str) -> Iterator[FoundFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or (not prefix and entry.name == omit):
                continue
            path = prefix + entry.name
            shown = f"{top}/{path}"
            if entry.is_symlink():
                require_inside(Path(entry.path), shown, bounds)
            try:
                status = entry.stat()
            except OSError as error:
                raise damaged(f"{shown}: {error.strerror}") from error
            if stat.S_ISDIR(status.st_mode):
                if path.count("/") < MAX_DEPTH and not entry.is_symlink():
                    yield from _walk(Path(entry.path), f"{path}/", top, bounds, omit)
            elif stat.S_ISREG(status.st_mode):
                yield FoundFile(path, status.st_size, status.st_mtime_ns)
            else:
                raise damaged(f"{shown} is not a regular file")


def require_inside(path: Path, shown: str, *bounds: Path) -> None:
    """Raise StorageError (MDL003) if a path, with every link resolved, is in none of the folders `bounds`."""
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise damaged(f"{shown} is a broken link") from error
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in bounds):
        raise StorageError(
            f"{shown} leads out of the models folder", code="MDL003", hint="copy the files instead of linking them"
        )


def foreign_file(path: Path) -> str | None:
    """Return what a file is instead of weights, as `it is …`; None if nothing is known of it."""
    with path.open("rb") as file:
        return foreign_content(file.read(HEAD), path.stat().st_size)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new one. Makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.new")
    with staged.open("wb") as file:
        file.write(data)
        sync_file(file)
    replace_whole(staged, path)


def sync_file(file: IO[bytes]) -> None:
    """Have the system write what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def replace_whole(staged: Path, path: Path) -> None:
    """Rename a file whose content is on the disk, and have the system write the new name, too."""
    staged.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the system write the names in a folder to the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems cannot do this for folders
            os.fsync(opened)
    finally:
        os.close(opened)


def sync_tree(folder: Path) -> None:
    """Have the system write all files in a folder to the disk, and their names."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it if the file system has no hard links. Replaces an earlier `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    real = Path(os.path.realpath(source))
    try:
        target.hardlink_to(real)
    except OSError:
        shutil.copy2(real, target)


def free_name(path: Path) -> Path:
    """Return the path, or one beside it that does not exist yet: `mv` replaces a file, and enters a folder."""
    numbers = chain([""], (f"-{number}" for number in count(2)))
    return next(one for number in numbers if not os.path.lexists(one := path.with_name(path.name + number)))


def safe_path(name: str) -> PurePosixPath:
    """Return a relative path of at most three plain parts.

    Raises InvalidRequest for `..`, absolute paths, backslashes and hidden files.
    """
    parts = name.split("/")
    if len(parts) > 3 or not all(
        len(part) <= 255 and _SAFE_PART.fullmatch(part) and ".." not in part for part in parts
    ):
        raise InvalidRequest(f"invalid file name {name[:120]!r}")
    return PurePosixPath(*parts)


def check_space(folder: Path, needed: int) -> None:
    """Raise StorageError (STO003) if `needed` bytes more would leave less than `SPARE_SPACE` on the disk."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_SPACE > free:
        raise StorageError(
            f"not enough disk space: {format_size(needed)} needed, {format_size(free)} free",
            code="STO003",
            hint="ollmlx rm MODEL frees space; OLLAMA_MODELS moves the models folder",
        )


# -- receipts --------------------------------------------------------------------------------------------------------


def read_receipt(path: Path) -> FetchReceipt | None:
    """Return a receipt, or None if there is none that can be read: then the store checks the files again."""
    try:
        data = read_bounded(path, MAX_JSON, path.name)
        return FetchReceipt.model_validate_json(data) if data is not None else None
    except (StorageError, ValidationError):
        return None


def write_receipt(path: Path, receipt: FetchReceipt) -> None:
    """Write a receipt, whole."""
    write_whole(path, receipt.model_dump_json().encode())


def with_hashes(folder: Path, files: Iterable[FoundFile], known: Iterable[FetchedFile] = ()) -> tuple[FetchedFile, ...]:
    """Return every file with its sha256. A file whose size and time are as in `known` is not read again."""
    sure = {(file.path, file.size, file.mtime_ns): file for file in known}
    return tuple(
        sure.get((file.path, file.size, file.mtime_ns))
        or FetchedFile(path=file.path, size=file.size, mtime_ns=file.mtime_ns, sha256=sha256_of(folder / file.path))
        for file in files
    )
