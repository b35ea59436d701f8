"""Children on Linux CPUs get a BLAS that a probe accepted; other machines need none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ollmlx_mlx.daemon.machine import BlasChoice, MlxMachine
from ollmlx_mlx.linux_cpu.blas import (
    MKL_COMMAND,
    OPENBLAS_COMMAND,
    REFERENCE,
    BlasCandidate,
    Probe,
    ProbeResult,
    TunedBlas,
    candidates,
)
from ollmlx_mlx.linux_cpu.blas_probe import ChildProbe, ProbeMemory, identity, read_result

LINUX = MlxMachine("linux", "x86_64", "Some CPU", 4, {"mlx": "0.32", "mlx-cpu": "0.32"})
STOCK = ProbeResult(0.4)
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


def answers(**verdicts: ProbeResult) -> Probe:
    """A probe with these results: `stock`, and by kind."""

    def probe(candidate: BlasCandidate | None) -> ProbeResult:
        return verdicts.get(candidate.kind if candidate else "stock", FAST if candidate else STOCK)

    return probe


def choose(machine: MlxMachine, probe: Probe, *, wish: str = "auto", threads: int = 0) -> BlasChoice:
    return TunedBlas(machine, probe).choose(wish, threads)


def test_mkl_comes_before_openblas_and_its_newest_version_first(machine: MlxMachine) -> None:
    found = [candidate.path.name for candidate in candidates(machine, "auto", 0)]
    assert found == ["libmkl_rt.so.3", "libmkl_rt.so.2", "libopenblas.so.0"]


def test_the_choice_is_an_environment_that_survives_spaces_in_paths(machine: MlxMachine, tmp_path: Path) -> None:
    spaced = tmp_path / "a folder" / "lib"
    touch(spaced / "libmkl_rt.so.3")
    touch(spaced / "libiomp5.so")
    choice = choose(replace(machine, folders=(spaced,), library_path="/opt/lib"), answers())
    assert choice.name == "MKL"
    assert choice.env == {
        "LD_PRELOAD": "libmkl_rt.so.3",
        "LD_LIBRARY_PATH": f"{spaced}:/opt/lib",
        "MKL_INTERFACE_LAYER": "LP64",
        "MKL_NUM_THREADS": "4",
        "MKL_THREADING_LAYER": "INTEL",
    }
    assert choice.speed_up == pytest.approx(40)


@pytest.mark.parametrize(
    ("cores", "threads", "layer", "streams"),
    [(1, 0, "SEQUENTIAL", 1), (2, 0, "SEQUENTIAL", 2), (8, 1, "SEQUENTIAL", 1), (2, 4, "INTEL", 1), (8, 0, "INTEL", 1)],
)
def test_on_few_cores_streams_take_the_place_of_threads(
    cores: int, threads: int, layer: str, streams: int, machine: MlxMachine
) -> None:
    touch(machine.folders[0] / "libiomp5.so")
    choice = choose(replace(machine, cores=cores), answers(), threads=threads)
    assert (choice.env["MKL_THREADING_LAYER"], choice.streams) == (layer, streams)


@pytest.mark.parametrize(("cores", "threads", "streams"), [(1, "1", 1), (2, "1", 2), (4, "4", 1)])
def test_a_library_that_ends_its_probe_is_rejected_and_openblas_has_threads_or_the_child_has_streams(
    cores: int, threads: str, streams: int, machine: MlxMachine
) -> None:
    choice = choose(replace(machine, cores=cores), answers(mkl=ProbeResult(None, "an illegal instruction")))
    assert (choice.name, choice.warning) == ("OpenBLAS", "")
    assert (choice.env["OPENBLAS_NUM_THREADS"], choice.streams) == (threads, streams)
    assert [problem for _, problem in choice.rejected] == ["an illegal instruction"] * 2


def test_with_nothing_usable_the_warning_has_the_reason_and_a_command(machine: MlxMachine) -> None:
    broken = ProbeResult(None, "an illegal instruction")
    choice = choose(machine, answers(mkl=broken, openblas=broken))
    assert choice.name == REFERENCE
    assert choice.env == {}
    assert "libmkl_rt.so.3 is unusable (an illegal instruction)" in choice.warning
    bare = choose(replace(LINUX, root=machine.root / "nowhere"), answers())
    assert "no fast one is installed" in bare.warning
    assert bare.command == MKL_COMMAND


def test_a_library_slower_than_the_reference_is_not_taken(machine: MlxMachine) -> None:
    choice = choose(machine, answers(mkl=ProbeResult(0.5), openblas=ProbeResult(0.6)))
    assert choice.name == REFERENCE
    assert choice.rejected[0][1] == "it is slower than the reference BLAS"


def test_on_arm_the_system_openblas_is_used_and_advised(machine: MlxMachine) -> None:
    arm = replace(machine, architecture="aarch64")
    assert choose(arm, answers()).name == "OpenBLAS"
    assert choose(replace(arm, root=machine.root / "nowhere"), answers()).command == OPENBLAS_COMMAND


def test_off_uses_the_reference_on_several_streams_with_a_warning(machine: MlxMachine) -> None:
    choice = choose(machine, answers(), wish="off")
    assert (choice.name, choice.env, choice.command, choice.streams) == (REFERENCE, {}, "", 2)
    assert "blas is off" in choice.warning


def test_a_library_may_be_named(machine: MlxMachine, tmp_path: Path) -> None:
    own = touch(tmp_path / "own" / "libfastblas.so")
    choice = choose(machine, answers(), wish=str(own))
    assert (choice.name, choice.env["LD_PRELOAD"]) == ("libfastblas.so", "libfastblas.so")
    missing = choose(machine, answers(), wish=str(tmp_path / "none.so"))
    assert missing.rejected == ((str(tmp_path / "none.so"), "there is no such file"),)
    odd = touch(tmp_path / "a:b" / "libx.so")
    assert "colon" in choose(machine, answers(), wish=str(odd)).rejected[0][1]


def never(candidate: BlasCandidate | None) -> ProbeResult:
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
    assert memory.get(key) is None
    memory.put(key, ProbeResult(None, "a crash"))
    memory.put("other", FAST)
    assert memory.get(key) == ProbeResult(None, "a crash")
    assert memory.get("other") == FAST
    library.write_bytes(b"changed")
    changed = {
        identity(candidate, LINUX, "python"),
        identity(candidate, replace(LINUX, cpu="Another"), "python"),
        identity(candidate, replace(LINUX, packages={"mlx": "0.33"}), "python"),
        identity(candidate, LINUX, "python3.12"),
        identity(None, LINUX, "python"),
    }
    assert len(changed | {key}) == 6


@pytest.mark.parametrize("content", ["{", "[]", '{"k": 3}', '{"k": {"seconds": -1}}', '{"k": {"seconds": true}}'])
def test_a_damaged_file_of_results_is_replaced(content: str, tmp_path: Path) -> None:
    file = tmp_path / "blas.json"
    file.write_text(content, encoding="utf-8")
    memory = ProbeMemory(file)
    assert memory.get("k") is None
    memory.put("k", FAST)
    assert memory.get("k") == FAST


def test_a_state_folder_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "blas.json").mkdir()
    ProbeMemory(tmp_path / "blas.json").put("k", FAST)
    assert "cannot remember" in caplog.text


def test_without_a_state_folder_nothing_is_left_on_the_machine(tmp_path: Path) -> None:
    memory = ProbeMemory(tmp_path / "state" / "blas.json")
    memory.put("k", FAST)
    assert memory.get("k") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mlx
def test_a_real_probe_runs_in_a_child_once(tmp_path: Path) -> None:
    machine = MlxMachine.here()
    if machine.device != "cpu":
        pytest.skip("MLX computes on a GPU here")
    file = tmp_path / "blas.json"
    first = ChildProbe(machine, ProbeMemory(file))(None)
    assert first.seconds is not None, first.problem
    assert ChildProbe(machine, ProbeMemory(file))(None) == first


@pytest.mark.mlx
def test_a_real_probe_rejects_what_cannot_be_loaded_or_started(tmp_path: Path) -> None:
    if MlxMachine.here().system != "linux":
        pytest.skip("LD_PRELOAD is Linux")
    library = tmp_path / "libbroken.so"
    library.write_bytes(b"not a library")
    (candidate,) = candidates(LINUX, str(library), 1)
    assert ChildProbe(LINUX, ProbeMemory(None))(candidate).problem == "the dynamic linker cannot load it"
    assert "cannot be started" in ChildProbe(LINUX, ProbeMemory(None), python=str(tmp_path / "no"))(None).problem


def test_the_doctors_advice_names_the_library_its_speed_and_a_command(machine: MlxMachine) -> None:
    good = TunedBlas(machine, answers()).advise("auto", 0)
    assert (good.name, good.warning, good.command) == ("MKL", "", "")
    assert good.speed_up == pytest.approx(40)
    bare = TunedBlas(replace(LINUX, root=machine.root / "nowhere"), answers()).advise("auto", 0)
    assert (bare.name, bare.speed_up, bare.command) == (REFERENCE, 1.0, MKL_COMMAND)
    off = TunedBlas(machine, answers()).advise("off", 0)
    assert off.command == 'remove blas = "off" from [plugins.mlx]'
