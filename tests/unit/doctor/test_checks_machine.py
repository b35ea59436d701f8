"""Checks of the machine."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.unit.doctor.contexts import GB, HEALTHY, MAC, child, codes, examined, expect, healthy, version_of

from ollmlx.doctor.checks.installation import paths
from ollmlx.doctor.checks.machine import kernels
from ollmlx.doctor.machine import Machine
from ollmlx.errors.findings import Severity


def parts(**versions: str) -> Any:
    """Return the installed versions, with these parts of MLX and no others."""
    known = {"mlx": "0.32.4", "mlx-cpu": None, **{name.replace("_", "-"): one for name, one in versions.items()}}
    return partial(version_of, versions=known)


CUDA12, CUDA13, NO_PARTS = parts(mlx_cuda_12="0.32.4"), parts(mlx_cuda_13="0.32.4"), parts()
MISSING = "ModuleNotFoundError: No module named 'mlx'"
NO_LIBRARY = "ImportError: libmlx.so: cannot open shared object file"


def driver(version: str) -> Machine:
    """Return a machine with an NVIDIA card and this version of its driver."""
    return replace(HEALTHY, nvidia_gpu=True, nvidia_driver=version)


MACHINES: list[tuple[str, dict[str, Any], str, str]] = [
    ("ENV001", {"child": child(1, MISSING)}, "No module named", "pip install 'ollmlx[cpu]'"),
    ("ENV001", {"child": child(-4)}, "killed by signal 4", "pip install 'ollmlx[cpu]'"),
    ("ENV001", {"child": child(1, NO_LIBRARY), "version_of": NO_PARTS}, "neither its CPU nor its CUDA", "ollmlx[cpu]"),
    ("ENV001", {"child": child(1, MISSING), "machine": MAC}, "No module", "pip install --upgrade ollmlx"),
    ("ENV001", {"child": child(None)}, "not ready within", "import mlx.core"),
    ("ENV003", {"machine": replace(HEALTHY, ram=2 * GB)}, "2.0 GB", "ollmlx config show"),
    ("ENV004", {"machine": replace(HEALTHY, files_limit=256)}, "256 files", "ulimit -n 8192"),
    ("ENV005", {"machine": replace(MAC, rosetta=True, architecture="x86_64")}, "x86_64", "brew install"),
    ("ENV005", {"machine": replace(MAC, macos=(13, 6))}, "macOS 14", "softwareupdate"),
    ("ENV007", {"machine": replace(HEALTHY, nvidia_gpu=True)}, "for the CPU only", "pip install 'ollmlx[cuda]'"),
    ("ENV008", {"machine": replace(HEALTHY, nvidia_gpu=True), "version_of": CUDA12}, "needs 525", "nvidia-smi"),
    ("ENV008", {"machine": driver("470.82.01"), "version_of": CUDA12}, "470.82.01 is too old", "nvidia-smi"),
    ("ENV008", {"machine": driver("550.54.15"), "version_of": CUDA13}, "13 needs 580", "pip install 'ollmlx[cuda]'"),
    ("ENV003", {"machine": replace(HEALTHY, swap_used=7 * GB, available=GB)}, "free memory", "ollmlx ps"),
    ("ENV003", {"machine": replace(HEALTHY, container_limit=8 * GB)}, "8.0 GB of 64 GB", ""),
    ("ENV003", {"machine": replace(HEALTHY, in_container=True)}, "no memory limit", ""),
    ("ENV011", {"version_of": parts(mlx_cpu="0.31.0")}, "mlx 0.32.4", "mlx-cpu==0.32.4"),
    ("ENV012", {"now": lambda: 0.0}, "the clock says 1970-01-01", "timedatectl"),
    ("ENV005", {"machine": replace(HEALTHY, bits=32)}, "32 bits", "python3 -m venv"),
    ("ENV005", {"machine": replace(HEALTHY, implementation="PyPy")}, "PyPy", "python3 -m venv"),
    ("ENV003", {"machine": replace(MAC, wired_limit=8 * GB)}, "at most 8.0 GB of 64 GB", "sudo sysctl"),
    ("STO003", {"machine": replace(HEALTHY, free_space=lambda _: 0)}, "free: 0", "ollmlx list"),
    ("STO003", {"machine": replace(HEALTHY, free_space=lambda _: GB)}, "1.0 GB of disk", "ollmlx list"),
]


def test_the_link_of_uv_and_pipx_is_this_installation_whatever_comes_after_it(tmp_path: Path) -> None:
    own, links, other = (tmp_path / name for name in ("own", "links", "other"))
    for folder in (own, links, other):
        folder.mkdir()
    for program in (own / "ollmlx", own / "python", other / "ollmlx"):
        program.touch(0o755)
    (links / "ollmlx").symlink_to(own / "ollmlx")
    with patch("sys.executable", str(own / "python")):
        for order, found in ((f"{links}:{other}", 0), (f"{other}:{links}", 1)):
            context = healthy(tmp_path, environ={"PATH": order, "PYTHONNOUSERSITE": "1"})
            assert len(asyncio.run(paths.run(context))) == found, order


@pytest.mark.finding("ENV001", "ENV003", "ENV004", "ENV005", "ENV007", "ENV008")
@pytest.mark.finding("ENV011", "ENV012", "ENV005", "ENV003", "STO003")
@pytest.mark.parametrize(("code", "change", "evidence", "fix"), MACHINES)
def test_a_problem_of_the_machine_is_reported_with_its_fix(
    tmp_path: Path, code: str, change: dict[str, Any], evidence: str, fix: str
) -> None:
    context = replace(healthy(tmp_path), **change)
    expect(context, code, evidence, fix)
    assert codes(context) == [code]


@pytest.mark.parametrize(("out", "device"), [("Device(cpu, 0)", "CPU"), ("Device(gpu, 0)", "GPU")])
def test_the_device_and_the_memory_for_models_are_noted(tmp_path: Path, out: str, device: str) -> None:
    report = examined(replace(healthy(tmp_path), child=child(0, out=out)))
    reported = [note.title for note in report.notes("machine")]
    assert reported == [f"MLX 0.32.4 computes on the {device}", "51 GB of 64 GB of memory for models"]


def test_a_trial_that_took_too_long_is_only_a_warning(tmp_path: Path) -> None:
    (found,) = examined(replace(healthy(tmp_path), child=child(None))).findings
    assert found.severity is Severity.WARNING


def test_a_cause_is_reported_without_its_consequences(tmp_path: Path) -> None:
    broken = replace(MAC, rosetta=True, architecture="x86_64")
    context = replace(healthy(tmp_path), machine=broken, child=child(1, "ImportError: wrong architecture"))
    assert codes(context) == ["ENV005"]


@dataclass
class Advice:
    speed_up: float | None
    name: str = "mkl"
    command: str = "pip install 'ollmlx[cpu]'"
    warning: str = "matrix products with the reference BLAS; mkl would be 25 times faster"
    rejected: tuple[tuple[str, str], ...] = (("mkl", "it is not installed"),)


@pytest.mark.finding("ENV007")
@pytest.mark.parametrize(("speed_up", "expected"), [(1.0, ["ENV007"]), (25.0, []), (None, [])])
def test_a_slow_blas_is_reported_with_the_speed_of_a_better_one(
    tmp_path: Path, speed_up: float | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = healthy(tmp_path)
    monkeypatch.setattr(context.plugins.registry.backends.get("mlx"), "blas_advice", lambda: Advice(speed_up))
    report = examined(context, blas=True)
    found = report.findings
    assert [one.code for one in found] == expected
    reported = "matrix products use the BLAS mkl, 25 times as fast as the reference"
    assert (reported in [note.title for note in report.notes("machine")]) is (speed_up == 25.0)
    if found:
        assert "25 times faster" in found[0].evidence[0]
        assert found[0].commands[0].endswith("pip install 'ollmlx[cpu]'")


def test_a_busy_machine_on_which_the_blas_is_not_measured_in_time_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, release = healthy(tmp_path), threading.Event()
    monkeypatch.setattr(context.plugins.registry.backends.get("mlx"), "blas_advice", release.wait)
    monkeypatch.setattr("ollmlx.doctor.checks.machine.BLAS_SECONDS", 0.0)
    try:
        report = examined(context, blas=True)
    finally:
        release.set()
    assert report.findings == ()
    assert "not measured in time" in " ".join(note.title for note in report.notes("machine"))


def test_a_folder_for_compiled_kernels_that_belongs_to_another_user_is_reported(tmp_path: Path) -> None:
    context = replace(healthy(tmp_path, environ={"TMPDIR": str(tmp_path)}), user=os.getuid() + 1)
    (tmp_path / "mlx").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o700)
    assert [one.code for one in kernels.function(context)] == ["ENV001"]  # type: ignore[union-attr]
    assert [*kernels.function(replace(context, user=os.getuid()))] == []  # type: ignore[misc]
