"""Does MLX work here, on the best device, as fast as it could?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from ollmlx.doctor.check import check, found, noted
from ollmlx.doctor.context import CheckContext
from ollmlx.errors.findings import Finding, Severity

PROGRAM = "import mlx.core as mx; mx.eval(mx.ones(8).sum()); print(mx.default_device())"
SECONDS = 3.5
WORTH_IT = 2.0  # times faster than the reference, to be worth a word
OLDEST_MACOS = (14, 0)
OLDEST_DRIVER = {"mlx-cuda-12": 525, "mlx-cuda-13": 580}
PARTS = ("mlx-cpu", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13")


@check("mlx", "machine", "ENV001")
async def mlx(world: CheckContext) -> list[Finding]:
    """MLX in a child process, so that a crash in it is a finding."""
    ran = await world.child([sys.executable, "-P", "-c", PROGRAM], SECONDS)
    if ran.status == 0:
        device = "GPU" if "gpu" in ran.out.lower() else "CPU"
        return [noted("ENV001", f"MLX {world.version_of('mlx')} computes on the {device}")]
    if ran.status is None:  # a slow disk or a busy machine: nothing is known of MLX
        title = f"MLX was not ready within {SECONDS:g} s"
        trial = f"{sys.executable} -P -c '{PROGRAM}'"
        return [found("ENV001", title, commands=(trial,), severity=Severity.WARNING)]
    told = ran.err.strip().splitlines()[-1:]
    if ran.status < 0:
        told = [f"the trial was killed by signal {-ran.status}", *told]
    title = "MLX cannot be used on this machine"
    if world.machine.system == "linux" and world.version_of("mlx") and not _installed_parts(world):
        title = "MLX is installed without anything to compute with: neither its CPU nor its CUDA package is there"
    return [found("ENV001", title, evidence=told, commands=(_install(world),))]


@check("python", "machine", "ENV005")
def python(world: CheckContext) -> Iterator[Finding]:
    """Whether MLX exists for a Python like this."""
    machine = world.machine
    if machine.bits < 64 or machine.implementation != "CPython":
        this = f"{machine.implementation} {'.'.join(map(str, machine.python))} with {machine.bits} bits"
        yield found(
            "ENV005", f"this Python is {this}; MLX needs CPython with 64",
            evidence=(sys.executable,), commands=("python3 -m venv .venv", ".venv/bin/pip install ollmlx"),
        )  # fmt: skip


@check("accelerator", "machine", "ENV005", "ENV007", "ENV008", "ENV011")
def accelerator(world: CheckContext) -> Iterator[Finding]:
    """Whether this Python, this system and these packages reach the best device."""
    machine = world.machine
    if machine.rosetta:
        yield found(
            "ENV005", "this Python is built for Intel and runs under Rosetta",
            evidence=(f"{sys.executable} says it is {machine.architecture}",),
            commands=("brew install python@3.12",),
        )  # fmt: skip
    if machine.macos and machine.macos[:2] < OLDEST_MACOS:
        version = ".".join(map(str, machine.macos))
        yield found("ENV005", f"macOS {version} is too old for MLX", evidence=("MLX needs macOS 14 or newer",),
                    commands=("softwareupdate --list",))  # fmt: skip
    yield from _cuda(world)
    yield from _parts(world)


def _cuda(world: CheckContext) -> Iterator[Finding]:
    machine = world.machine
    if machine.system != "linux" or not machine.nvidia_gpu:
        return
    package = next((name for name in OLDEST_DRIVER if world.version_of(name)), None)
    if package is None:
        yield found(
            "ENV007", "there is an NVIDIA card, and MLX is installed for the CPU only",
            commands=("pip install 'ollmlx[cuda]'",),
        )  # fmt: skip
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


def _parts(world: CheckContext) -> Iterator[Finding]:
    whole = world.version_of("mlx")
    parts = _installed_parts(world)
    unlike = [f"{name} {version}" for name, version in parts.items() if version != whole]
    if whole and unlike:
        yield found(
            "ENV011", "the parts of MLX have different versions", evidence=(f"mlx {whole}", *unlike),
            commands=(f"pip install --force-reinstall {' '.join(f'{name}=={whole}' for name in parts)}",),
        )  # fmt: skip


def _installed_parts(world: CheckContext) -> dict[str, str]:
    return {name: version for name in PARTS if (version := world.version_of(name))}


@check("blas", "machine", "ENV002")
async def blas(world: CheckContext) -> list[Finding]:
    """The BLAS that a runner on the CPU will use, and what a better one would bring."""
    backend = world.plugins.registry.backends.get("mlx") if world.plugins else None
    advise = getattr(backend, "blas_advice", None)
    if advise is None:
        return []
    advice = await asyncio.to_thread(advise)
    if advice.speed_up is None:
        return []
    if advice.speed_up >= WORTH_IT or not advice.command:
        faster = f", {advice.speed_up:.0f} times as fast as the reference" if advice.speed_up >= WORTH_IT else ""
        return [noted("ENV002", f"matrix products with the BLAS {advice.name}{faster}")]
    rejected = [f"{name}: {why}" for name, why in advice.rejected]
    title = "MLX on this CPU computes with its slow reference BLAS"
    return [found("ENV002", title, evidence=(advice.warning, *rejected), commands=(advice.command,))]


def _install(world: CheckContext) -> str:
    if world.machine.system == "darwin":
        return "pip install --upgrade ollmlx"
    return "pip install 'ollmlx[cuda]'" if world.machine.nvidia_gpu else "pip install 'ollmlx[cpu]'"
