"""Children on Linux CPUs get a BLAS that a probe accepted; other machines need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ollmlx_mlx.daemon.machine import BlasChoice, MlxMachine
from ollmlx_mlx.linux_cpu.blas import (
    COMMAND,
    REFERENCE,
    BlasCandidate,
    Measure,
    Probe,
    TunedBlas,
    candidates,
)
from ollmlx_mlx.linux_cpu.blas_probe import ChildProbe, ProbeMemory, ProbeResult, identity, read_result
from ollmlx_mlx.linux_cpu.openblas import PACKAGED, PlainCopies

LINUX = MlxMachine("linux", "x86_64", "Some CPU", 4, {"mlx": "0.32", "mlx-cpu": "0.32"})
FAST = ProbeResult(0.01)


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    return file


@pytest.fixture
def machine(tmp_path: Path) -> MlxMachine:
    """An x86-64 Linux machine with MKL in its environment and OpenBLAS in its system."""
    touch(tmp_path / "env" / "lib" / "libmkl_rt.so.2")
    touch(tmp_path / "env" / "lib" / "libmkl_rt.so.3")
    touch(tmp_path / "usr/lib/x86_64-linux-gnu/libopenblas.so.0")
    touch(tmp_path / "usr/lib/aarch64-linux-gnu/libopenblas.so.0")
    return replace(LINUX, folders=(tmp_path / "env" / "lib",), root=tmp_path)


def problems(**found: str) -> Probe:
    """A probe that finds these problems, by kind."""
    return lambda candidate: found.get(candidate.kind, "")


def times(reference: float | None = 0.4, tuned: float | None = 0.01) -> Measure:
    return lambda env: tuned if env else reference


def untimed(env: Mapping[str, str]) -> float | None:
    raise AssertionError(f"a choice was timed: {env}")


WORKING = problems()


def choose(machine: MlxMachine, probe: Probe = WORKING, *, wish: str = "auto", threads: int = 0) -> BlasChoice:
    return TunedBlas(machine, probe, untimed, PlainCopies(None)).choose(wish, threads)


def found(machine: MlxMachine, wish: str = "auto") -> list[BlasCandidate]:
    return list(candidates(machine, wish, 0, PlainCopies(None)))


@pytest.mark.parametrize(
    ("cpu", "avx512", "first"), [("AMD EPYC", True, "own"), ("AMD EPYC", False, "mkl"), ("Intel Xeon", True, "mkl")]
)
def test_the_openblas_of_the_package_comes_first_where_mkl_is_slower(
    cpu: str, avx512: bool, first: str, machine: MlxMachine
) -> None:
    own = touch(machine.folders[0] / PACKAGED)
    libraries = found(replace(machine, cpu=cpu, avx512=avx512))
    names = ["own" if candidate.packaged == own else candidate.path.name for candidate in libraries]
    mkl = ["libmkl_rt.so.3", "libmkl_rt.so.2"]
    assert names == (["own", *mkl, "libopenblas.so.0"] if first == "own" else [*mkl, "own", "libopenblas.so.0"])


def test_the_choice_is_an_environment_that_survives_spaces_in_paths(machine: MlxMachine, tmp_path: Path) -> None:
    spaced = tmp_path / "a folder" / "lib"
    touch(spaced / "libmkl_rt.so.3")
    touch(spaced / "libiomp5.so")
    choice = choose(replace(machine, folders=(spaced,), library_path="/opt/lib"))
    assert choice.name == "MKL"
    assert choice.env == {
        "LD_PRELOAD": "libmkl_rt.so.3",
        "LD_LIBRARY_PATH": f"{spaced}:/opt/lib",
        "MKL_INTERFACE_LAYER": "LP64",
        "MKL_NUM_THREADS": "4",
        "MKL_THREADING_LAYER": "INTEL",
    }


@pytest.mark.parametrize(
    ("cores", "threads", "layer", "streams"),
    [(1, 0, "SEQUENTIAL", 1), (2, 0, "SEQUENTIAL", 2), (8, 1, "SEQUENTIAL", 1), (2, 4, "INTEL", 1), (8, 0, "INTEL", 1)],
)
def test_on_few_cores_streams_take_the_place_of_threads(
    cores: int, threads: int, layer: str, streams: int, machine: MlxMachine
) -> None:
    touch(machine.folders[0] / "libiomp5.so")
    choice = choose(replace(machine, cores=cores), threads=threads)
    assert (choice.env["MKL_THREADING_LAYER"], choice.streams) == (layer, streams)


@pytest.mark.parametrize(("cores", "threads", "streams"), [(1, "1", 1), (2, "1", 2), (4, "4", 1)])
def test_a_library_that_ends_its_probe_is_rejected_and_openblas_has_threads_or_the_child_has_streams(
    cores: int, threads: str, streams: int, machine: MlxMachine
) -> None:
    choice = choose(replace(machine, cores=cores), problems(mkl="an illegal instruction"))
    assert (choice.name, choice.warning) == ("OpenBLAS", "")
    assert (choice.env["OPENBLAS_NUM_THREADS"], choice.streams) == (threads, streams)
    assert [problem for _, problem in choice.rejected] == ["an illegal instruction"] * 2


def test_with_nothing_usable_the_warning_has_the_reason_and_a_command(machine: MlxMachine) -> None:
    broken = "an illegal instruction"
    choice = choose(machine, problems(mkl=broken, openblas=broken))
    assert choice.name == REFERENCE
    assert choice.env == {}
    assert "libmkl_rt.so.3 is unusable (an illegal instruction)" in choice.warning
    bare = choose(replace(LINUX, root=machine.root / "nowhere"))
    assert "no fast one is installed" in bare.warning
    assert bare.command == COMMAND


def test_on_arm_the_openblas_of_the_package_or_the_system_is_used(machine: MlxMachine) -> None:
    arm = replace(machine, architecture="aarch64")
    assert choose(arm).name == "OpenBLAS"
    touch(machine.folders[0] / PACKAGED)
    assert [bool(candidate.packaged) for candidate in found(arm)] == [True, False]


def test_off_uses_the_reference_on_several_streams_with_a_warning(machine: MlxMachine) -> None:
    choice = choose(machine, wish="off")
    assert (choice.name, choice.env, choice.command, choice.streams) == (REFERENCE, {}, "", 2)
    assert "blas is off" in choice.warning


def test_a_library_may_be_named(machine: MlxMachine, tmp_path: Path) -> None:
    own = touch(tmp_path / "own" / "libfastblas.so")
    choice = choose(machine, wish=str(own))
    assert (choice.name, choice.env["LD_PRELOAD"]) == ("libfastblas.so", "libfastblas.so")
    missing = choose(machine, wish=str(tmp_path / "none.so"))
    assert missing.rejected == ((str(tmp_path / "none.so"), "there is no such file"),)
    odd = touch(tmp_path / "a:b" / "libx.so")
    assert "colon" in choose(machine, wish=str(odd)).rejected[0][1]


def never(candidate: BlasCandidate) -> str:
    raise AssertionError(candidate)


@pytest.mark.parametrize(
    ("system", "package", "device"),
    [("darwin", "mlx-metal", "metal"), ("linux", "mlx-cuda-12", "cuda"), ("linux", "mlx-cuda-13", "cuda")],
)
def test_nothing_is_probed_or_preloaded_where_a_gpu_computes(
    system: str, package: str, device: str, machine: MlxMachine, tmp_path: Path
) -> None:
    touch(tmp_path / "dev/nvidiactl")
    gpu = replace(machine, system=system, packages={"mlx": "1", package: "1"})
    assert gpu.device == device
    assert gpu.has_mlx
    choice = choose(gpu, never)
    assert (choice.env, choice.streams, choice.speed_up) == ({}, 1, None)


def test_the_cuda_package_without_a_driver_computes_on_the_cpu(machine: MlxMachine) -> None:
    assert replace(machine, packages={"mlx": "1", "mlx-cuda-12": "1"}).device == "cpu"
    assert not replace(machine, packages={"mlx": "1"}).has_mlx


@pytest.mark.parametrize(
    ("code", "out", "err", "seconds", "words"),
    [
        (0, '{"seconds": 0.01, "wrong": 0.0}', "", 0.01, ""),
        (0, '{"seconds": 0.01, "wrong": 0.5}', "", None, "results are wrong"),
        (0, '{"seconds": 0.01, "wrong": NaN}', "", None, "results are wrong"),
        (0, "", "", None, "cannot be read"),
        (0, '{"seconds": 1, "wrong": 0}', "ERROR: ld.so: object 'x' cannot be preloaded: ignored.", None, "linker"),
        (1, "", "object 'x' from LD_PRELOAD cannot be preloaded (failed to map): ignored.", None, "it: failed to map"),
        (-4, "", "", None, "illegal instruction"),
        (-11, "", "", None, "a crash"),
        (-9, "", "", None, "SIGKILL"),
        (1, "", "Traceback\nImportError: libx: no symbol", None, "ImportError"),
        (127, "", "", None, "status 127"),
    ],
)
def test_exit_and_output_of_a_probe_decide(code: int, out: str, err: str, seconds: float | None, words: str) -> None:
    verdict = read_result(code, out, err)
    assert verdict.seconds == seconds
    assert words in verdict.problem


def test_a_result_is_kept_until_something_about_the_library_changes(tmp_path: Path) -> None:
    library = touch(tmp_path / "libx.so")
    candidate = BlasCandidate("custom", library, {"LD_PRELOAD": "libx.so"})
    memory = ProbeMemory(tmp_path / "blas.json")
    key = identity(candidate, LINUX, "python")
    assert not memory.has(key)
    memory.add("other", FAST)
    memory.add(key, FAST)
    assert memory.has(key)
    assert memory.has("other")
    library.write_bytes(b"changed")
    changed = {
        identity(candidate, LINUX, "python"),
        identity(candidate, replace(LINUX, cpu="Another"), "python"),
        identity(candidate, replace(LINUX, packages={"mlx": "0.33"}), "python"),
        identity(candidate, LINUX, "python3.12"),
        identity(replace(candidate, path=tmp_path / "liby.so"), LINUX, "python"),
    }
    assert len(changed | {key}) == 6


def test_a_problem_that_an_earlier_version_kept_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "blas.json"
    file.write_text('{"k": {"seconds": null, "problem": "it took more than 60 seconds"}}', encoding="utf-8")
    memory = ProbeMemory(file)
    assert not memory.has("k")
    memory.add("other", FAST)
    assert "60 seconds" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["{", "[]", '{"k": 3}', '{"k": {"seconds": -1}}', '{"k": {"seconds": true}}'])
def test_a_damaged_file_of_results_is_replaced(content: str, tmp_path: Path) -> None:
    file = tmp_path / "blas.json"
    file.write_text(content, encoding="utf-8")
    memory = ProbeMemory(file)
    assert not memory.has("k")
    memory.add("k", FAST)
    assert memory.has("k")


def test_a_state_folder_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "blas.json").mkdir()
    ProbeMemory(tmp_path / "blas.json").add("k", FAST)
    assert "cannot remember" in caplog.text


def test_without_a_state_folder_nothing_is_left_on_the_machine(tmp_path: Path) -> None:
    memory = ProbeMemory(tmp_path / "state" / "blas.json")
    memory.add("k", FAST)
    assert not memory.has("k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mlx
def test_a_library_that_works_is_tried_once_and_one_that_fails_every_time(tmp_path: Path) -> None:
    file = tmp_path / "blas.json"
    works, fails = (BlasCandidate("custom", tmp_path / name, {"KIND": name}) for name in ("libx.so", "liby.so"))
    log = tmp_path / "log"
    interpreter = tmp_path / "python"
    interpreter.write_text(
        f'#!/bin/sh\necho "$KIND" >> "{log}"\n[ "$KIND" = libx.so ] && echo \'{{"seconds": 0.01, "wrong": 0}}\'\n',
        encoding="utf-8",
    )
    interpreter.chmod(0o755)
    for _ in range(2):
        probe = ChildProbe(LINUX, ProbeMemory(file), python=str(interpreter))
        assert (probe.problem(works), probe.problem(fails)) == ("", "the probe ended with status 1")
    assert log.read_text(encoding="utf-8").split() == ["libx.so", "liby.so", "liby.so"]


@pytest.mark.mlx
def test_the_real_probe_computes_with_the_library_that_is_installed_here() -> None:
    machine = MlxMachine.here()
    if machine.device != "cpu":
        pytest.skip("MLX computes on a GPU here")
    probe = ChildProbe(machine, ProbeMemory(None))
    assert probe.seconds({}) is not None
    choice = TunedBlas(machine, probe.problem, probe.seconds, PlainCopies(None)).choose("auto", 0)
    assert (choice.name, choice.rejected) == ("OpenBLAS", ())


@pytest.mark.mlx
def test_a_real_probe_rejects_what_cannot_be_loaded_or_started(tmp_path: Path) -> None:
    if MlxMachine.here().system != "linux":
        pytest.skip("LD_PRELOAD is Linux")
    library = tmp_path / "libbroken.so"
    library.write_bytes(b"not a library")
    (candidate,) = found(LINUX, str(library))
    assert ChildProbe(LINUX, ProbeMemory(None)).problem(candidate).startswith("the dynamic linker cannot load it: ")
    prefixed = tmp_path / "libprefixed.so"
    prefixed.symlink_to(next(folder / PACKAGED for folder in MlxMachine.here().folders if (folder / PACKAGED).exists()))
    (useless,) = found(LINUX, str(prefixed))
    assert "undefined symbol: cblas_sgemm" in ChildProbe(LINUX, ProbeMemory(None)).problem(useless)
    absent = ChildProbe(LINUX, ProbeMemory(None), python=str(tmp_path / "no"))
    assert "cannot be started" in absent.problem(candidate)
    assert absent.seconds({}) is None


def advise(machine: MlxMachine, measure: Measure, wish: str = "auto") -> BlasChoice:
    return TunedBlas(machine, problems(), measure, PlainCopies(None)).advise(wish, 0)


def test_the_doctors_advice_names_the_library_its_speed_and_a_command(machine: MlxMachine) -> None:
    good = advise(machine, times())
    assert (good.name, good.warning, good.command) == ("MKL", "", "")
    assert good.speed_up == pytest.approx(40)
    bare = advise(replace(LINUX, root=machine.root / "nowhere"), times())
    assert (bare.name, bare.speed_up, bare.command) == (REFERENCE, 1.0, COMMAND)
    assert advise(machine, times(), "off").command == 'remove blas = "off" from [plugins.mlx]'


def test_the_doctor_measures_whether_the_library_that_is_used_is_fast(machine: MlxMachine, tmp_path: Path) -> None:
    slow = advise(machine, times(tuned=0.3))
    assert (slow.name, slow.command) == ("MKL", COMMAND)
    assert "hardly faster" in slow.warning
    own = str(touch(tmp_path / "own" / "libslow.so"))
    assert advise(machine, times(tuned=0.3), own).command == f'remove blas = "{own}" from [plugins.mlx]'
    assert advise(machine, times(reference=None)).speed_up is None
