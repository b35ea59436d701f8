"""Space on disk for a model that is being made, and the errors when there is none. Shared by both importers."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ollmlx import format_size


def require_space(folder: Path, needed: int) -> None:
    """Raise OSError unless `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{format_size(needed)} are needed on disk, {format_size(free)} are free")


@contextmanager
def writing() -> Iterator[None]:
    """Turn MLX's failures to write weights into an OSError."""
    try:
        yield
    except RuntimeError as error:
        if "write" not in str(error) and "open" not in str(error):
            raise
        raise OSError(errno.EIO, f"the weights could not be written; is the disk full? ({error})") from error
