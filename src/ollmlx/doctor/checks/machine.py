"""Checks of the machine: whether MLX works on its best device, and what memory, files and time it has."""

from __future__ import annotations

import asyncio
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ollmlx.doctor.check import check, found, noted, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import other_folder, quoted
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.text.quantities import format_size

TRIAL = "import mlx.core as mx; mx.eval(mx.ones(8).sum()); print(mx.default_device())"
TRIAL_SECONDS = 3.5
BLAS_SECONDS = 1.2
WORTHWHILE = 2.0
"""A BLAS must be this many times faster than the reference BLAS to be reported."""
OLDEST_DRIVER = {"mlx-cuda-12": 525, "mlx-cuda-13": 580}
PARTS = ("mlx-cpu", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13")
OTHER_BUILD = re.compile(r"libc\.musl|ld-musl|incompatible architecture|wrong ELF class|invalid ELF header|Exec format")
"""Words of the dynamic loader about a library of another system, as an environment that was copied has it."""
LEAST_ADDRESSES = 16 * 1000**3
LEAST_PROCESSES = 256
LEAST_MEMORY = 2 * 1000**3
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # before this release: a right clock never shows it
LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


@check("mlx", "machine", "ENV001", "ENV005", "ENV011")
async def mlx(context: CheckContext) -> list[Finding]:
    """Compute with MLX in a child process, so that a crash becomes a finding."""
    seconds = min(TRIAL_SECONDS, context.left())
    done = await context.child([sys.executable, "-P", "-c", TRIAL], seconds)
    if done.status == 0:
        device = "GPU" if "gpu" in done.out.lower() else "CPU"
        return [noted("ENV001", f"MLX {context.version_of('mlx')} computes on the {device}")]
    if done.status is None and seconds < TRIAL_SECONDS:
        return [skipped("ENV001", "skipped: there was no time to try whether MLX computes")]
    if done.status is None:  # a slow disk or a busy machine says nothing about MLX
        title = f"MLX was not ready within {TRIAL_SECONDS:g} s"
        trial = f"{sys.executable} -P -c '{TRIAL}'"
        return [found("ENV001", title, commands=(trial,), severity=Severity.WARNING)]
    output = done.err.strip().splitlines()[-1:]
    if (elsewhere := _of_another_system(context, done.err, output)) is not None:
        return [elsewhere]
    if done.status < 0:
        output = [f"the trial was killed by signal {-done.status}", *output]
    title = "MLX cannot be used on this machine"
    if context.machine.system == "linux" and context.version_of("mlx") and not _installed_parts(context):
        title = "MLX is installed without anything to compute with: neither its CPU nor its CUDA package is there"
    return [found("ENV001", title, evidence=output, commands=(_install(context),))]


def _of_another_system(context: CheckContext, error: str, output: Sequence[str]) -> Finding | None:
    """Return why the dynamic loader takes a wrong library, by its words; None if it is something else."""
    libraries = context.environ.get("LD_LIBRARY_PATH", "").split(":")
    if before := next((one for one in filter(None, libraries) if f"{one.rstrip('/')}/" in error), None):
        title = f"LD_LIBRARY_PATH puts the libraries of {before} before the system's, and MLX cannot use them"
        unset = (SafeCommand("unset LD_LIBRARY_PATH", asks=True),)
        return found("ENV011", title, evidence=output, commands=unset, subject=before)
    if OTHER_BUILD.search(error):
        title = "MLX's build is for another system than this one: another processor, or another C library"
        again = f"pip install --force-reinstall --no-cache-dir {' '.join(['mlx', *_installed_parts(context)])}"
        return found("ENV011", title, evidence=output, commands=(again,))
    conda = context.environ.get("CONDA_PREFIX", "")
    if conda and "version `GLIBCXX" in error and f"{conda}/" in error:
        title = f"the C++ library of the conda environment {conda} is too old for MLX's build"
        return found("ENV005", title, evidence=output, commands=("conda install -c conda-forge libstdcxx-ng",))
    if "version `GLIBC" in error or "version `GLIBCXX" in error:
        title = "the C library of this system is too old for MLX's build"
        return found("ENV005", title, evidence=output, commands=("ldd --version",))
    return None


@check("kernels", "machine", "ENV001")
def kernels(context: CheckContext) -> Iterator[Finding]:
    """Report a folder for MLX's compiled kernels that belongs to another user: MLX fails where it cannot write it."""
    temporary = Path(context.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - MLX itself uses it
    folder = temporary / "mlx"
    state = context.settings.state_folder
    if "noexec" in context.machine.flags(state) and context.machine.system == "linux":
        yield found(
            "ENV001", f"{state}, where runners compile kernels, is mounted noexec: they cannot be loaded",
            subject=str(state), commands=other_folder("OLLMLX_STORAGE__STATE", ".ollmlx"),
        )  # fmt: skip
    with suppress(OSError):
        status = folder.stat()
        if status.st_uid == context.user or context.user == 0 or status.st_mode & stat.S_IWOTH:
            return
        yield found(
            "ENV001", f"{folder}, where MLX keeps compiled kernels, belongs to another user", subject=str(folder),
            evidence=(f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}",),
            commands=other_folder("TMPDIR", ".cache/ollmlx-tmp", create=True),
            instead=(f"sudo chmod -R a+rwX {quoted(folder)}",),
        )  # fmt: skip


@check("accelerator", "machine", "ENV005", "ENV007", "ENV008", "ENV011")
def accelerator(context: CheckContext) -> Iterator[Finding]:
    """Report what keeps this Python, this system and these packages from the best device."""
    machine = context.machine
    if machine.bits < 64 or machine.implementation != "CPython":
        this = f"{machine.implementation} {'.'.join(map(str, machine.python))} with {machine.bits} bits"
        yield found(
            "ENV005", f"this Python is {this}; MLX needs CPython with 64 bits",
            evidence=(sys.executable,), commands=("python3 -m venv .venv", ".venv/bin/pip install ollmlx"),
        )  # fmt: skip
    if machine.rosetta:
        yield found(
            "ENV005", "this Python is built for Intel and runs under Rosetta",
            evidence=(f"the architecture of {sys.executable} is {machine.architecture}",),
            commands=("brew install python@3.12",),
        )  # fmt: skip
    if machine.macos and machine.macos < (14,):
        version = ".".join(map(str, machine.macos))
        yield found("ENV005", f"macOS {version} is too old for MLX", evidence=("MLX needs macOS 14 or newer",),
                    commands=("softwareupdate --list",))  # fmt: skip
    yield from _cuda(context)
    yield from _parts(context)


def _cuda(context: CheckContext) -> Iterator[Finding]:
    machine = context.machine
    if machine.system != "linux" or not machine.nvidia_gpu:
        return
    package = next((name for name in OLDEST_DRIVER if context.version_of(name)), None)
    if package is None:
        title = "there is an NVIDIA card, and MLX is installed for the CPU only"
        yield found("ENV007", title, commands=("pip install 'ollmlx[cuda]'",))
        return
    driver = machine.nvidia_driver
    oldest = OLDEST_DRIVER[package]
    needs = (f"{package} needs {oldest} or newer",)
    if driver is None:
        title = "there is an NVIDIA card without its driver"
        yield found("ENV008", title, evidence=needs, commands=("sudo apt-get install nvidia-driver", "nvidia-smi"))
    elif (major := int(driver.partition(".")[0])) < oldest:
        older = ("pip install 'ollmlx[cuda]'",) if major >= OLDEST_DRIVER["mlx-cuda-12"] else ()
        title = f"the NVIDIA driver {driver} is too old"
        yield found("ENV008", title, evidence=needs, commands=(*older, "nvidia-smi"))


def _parts(context: CheckContext) -> Iterator[Finding]:
    whole = context.version_of("mlx")
    parts = _installed_parts(context)
    different = [f"{name} {version}" for name, version in parts.items() if version != whole]
    if whole and different:
        yield found(
            "ENV011", "the parts of MLX have different versions", evidence=(f"mlx {whole}", *different),
            commands=(f"pip install --force-reinstall {' '.join(f'{name}=={whole}' for name in parts)}",),
        )  # fmt: skip


def _installed_parts(context: CheckContext) -> dict[str, str]:
    return {name: version for name in PARTS if (version := context.version_of(name))}


def _install(context: CheckContext) -> str:
    if context.machine.system == "darwin":
        return "pip install --upgrade ollmlx"
    return "pip install 'ollmlx[cuda]'" if context.machine.nvidia_gpu else "pip install 'ollmlx[cpu]'"


@check("blas", "machine", "ENV007")
async def blas(context: CheckContext) -> list[Finding]:
    """Report the BLAS that a runner on the CPU will use, and how much faster another one would be."""
    backend = context.plugins.registry.backends.get("mlx") if context.plugins else None
    advise = getattr(backend, "blas_advice", None)
    if advise is None:
        return []
    try:
        advice = await asyncio.wait_for(asyncio.to_thread(advise), min(BLAS_SECONDS, context.left()))
    except TimeoutError:  # it is measured; a busy machine says nothing about the library
        return [skipped("ENV007", "skipped: the speed of matrix products was not measured in time")]
    if advice.speed_up is None:
        return []
    if advice.speed_up >= WORTHWHILE or not advice.command:
        faster = f", {advice.speed_up:.0f} times as fast as the reference" if advice.speed_up >= WORTHWHILE else ""
        return [noted("ENV007", f"matrix products use the BLAS {advice.name}{faster}")]
    rejected = [f"{name}: {reason}" for name, reason in advice.rejected]
    title = f"matrix products on this CPU use a slow library: {advice.name}"
    return [found("ENV007", title, evidence=(advice.warning, *rejected), commands=(advice.command,))]


@check("limits", "machine", "ENV003", "ENV004", "ENV012")
def limits(context: CheckContext) -> Iterator[Finding]:
    """Check memory, swap, the container, open files and the clock."""
    machine = context.machine
    yield from _memory(context)
    if machine.swap_total and machine.swap_used > machine.swap_total / 2 and machine.available < LEAST_MEMORY:
        title = f"{format_size(machine.swap_used)} of {format_size(machine.swap_total)} swap are in use"
        free = (f"free memory: {format_size(machine.available)}",)
        yield found("ENV003", title, evidence=free, commands=("ollmlx ps",))
    if machine.files_limit is not None and machine.files_limit < 1024:
        yield found("ENV004", f"only {machine.files_limit} files may be open", commands=("ulimit -n 8192",))
    if machine.address_limit is not None and machine.address_limit < LEAST_ADDRESSES:
        title = f"the address space of a process is limited to {format_size(machine.address_limit)}: MLX crashes at it"
        yield found("ENV004", title, commands=("ulimit -v unlimited",))
    if machine.process_limit is not None and machine.process_limit < LEAST_PROCESSES:
        yield found(
            "ENV004", f"only {machine.process_limit} processes and threads may run", commands=("ulimit -u 4096",)
        )
    now = context.now()
    if not EARLIEST <= now <= LATEST:
        date = datetime.fromtimestamp(min(max(now, 0), LATEST), UTC).date()
        command = "sudo sntp -sS time.apple.com" if machine.system == "darwin" else "sudo timedatectl set-ntp true"
        why = ("certificates are refused while the clock is wrong",)
        yield found("ENV012", f"the clock says {date}", evidence=why, commands=(command,))


def _memory(context: CheckContext) -> Iterator[Finding]:
    machine, limit = context.machine, context.settings.memory.limit
    budget = context.memory_budget
    if budget >= LEAST_MEMORY:
        yield noted("ENV003", f"{format_size(budget)} of {format_size(machine.ram)} of memory for models")
    elif budget > 0:
        yield found(
            "ENV003", f"models together may use {format_size(budget)}",
            evidence=(f"memory: {format_size(machine.ram)}", f"[memory] limit = {limit!r}"),
            commands=("ollmlx config show",),
        )  # fmt: skip
    if machine.container_limit is not None and machine.container_limit < machine.ram:
        title = f"the container limits memory to {format_size(machine.container_limit)} of {format_size(machine.ram)}"
        yield found("ENV003", title, severity=Severity.INFO)
    elif machine.in_container and limit == "auto" and machine.container_limit is None:
        yield found(
            "ENV003", "this container has no memory limit: models count with the memory of the whole machine",
            severity=Severity.INFO, evidence=("one is set by docker run --memory, or here by [memory] limit",),
        )  # fmt: skip
    wanted = limit if isinstance(limit, int) else machine.ram // 2  # macOS itself gives more than half
    if machine.wired_limit and machine.wired_limit < wanted:
        wired = f"{format_size(machine.wired_limit)} of {format_size(machine.ram)}"
        yield found(
            "ENV003", f"macOS gives the GPU at most {wired}",
            evidence=(f"iogpu.wired_limit_mb = {machine.wired_limit // 1024**2}", f"[memory] limit = {limit!r}"),
            commands=("sudo sysctl iogpu.wired_limit_mb=0",),
        )  # fmt: skip
