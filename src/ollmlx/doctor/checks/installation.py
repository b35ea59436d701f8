"""Checks of the installation: packages that are too old, modules that hide them, another ollmlx that comes first."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import quoted
from ollmlx.errors.findings import Finding, SafeCommand, Severity

PACKAGES = {
    "ollmlx": "", "mlx-lm": "", "mlx-vlm": "vision", "xllamacpp": "llamacpp", "faster-whisper": "speech",
    "opentelemetry-sdk": "otel", "opentelemetry-exporter-otlp-proto-http": "otel",
}  # fmt: skip
"""Distributions whose requirements are compared with what is installed, and the extra that brings each."""
MODULES = ("ollmlx", "mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "huggingface_hub", "xllamacpp", "pydantic")
SHOWN = 5


@check("packages", "machine", "ENV011")
def packages(context: CheckContext) -> Iterator[Finding]:
    """Report packages that are missing, or of a version that ollmlx, mlx-lm or what an extra brings cannot use."""
    for package, extra in PACKAGES.items():
        for requirement in _requirements(package):
            version, needed = context.version_of(requirement.name), f"{requirement.name}{requirement.specifier}"
            if version is not None and not _fits(requirement, version):
                title = f"{requirement.name} {version} is installed, {package} needs {requirement.specifier}"
                yield found("ENV011", title, subject=requirement.name, commands=(f"pip install '{needed}'",))
            elif version is None and requirement.name != "mlx" and (not extra or context.version_of(package)):
                half = f"the extra '{extra}' is half installed: " if extra else ""
                title = f"{half}{package} needs {requirement.name}, which is not installed"
                install = f"pip install 'ollmlx[{extra}]' '{needed}'" if extra else f"pip install '{needed}'"
                severity = Severity.WARNING if extra else Severity.ERROR
                yield found("ENV011", title, subject=requirement.name, commands=(install,), severity=severity)


def _requirements(package: str) -> Iterator[Requirement]:
    try:
        texts = requires(package) or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True


@check("paths", "machine", "ENV011")
def paths(context: CheckContext) -> Iterator[Finding]:
    """Report modules of PYTHONPATH that hide packages, and another `ollmlx` that the terminal finds first."""
    own = Path(sys.prefix).resolve()
    for entry in filter(None, context.environ.get("PYTHONPATH", "").split(os.pathsep)):
        hiding = [Path(entry) / form for name in MODULES for form in (f"{name}.py", f"{name}/__init__.py")]
        there = [str(path) for path in hiding if os.path.isfile(path)]  # noqa: PTH113 - Path raises where it may not look
        if there and not Path(entry).resolve().is_relative_to(own) and not _is_ours(entry):
            yield found(
                "ENV011", f"PYTHONPATH puts modules before the installed packages: {', '.join(there[:SHOWN])}",
                subject=entry, evidence=("PYTHONPATH",),
                commands=(SafeCommand("unset PYTHONPATH", asks=True),),
            )  # fmt: skip
    yield from _user_site(context)
    here = Path(sys.executable).parent
    for entry in filter(None, context.environ.get("PATH", "").split(os.pathsep)):
        program = Path(entry) / "ollmlx"
        if Path(entry).resolve() == here.resolve():
            return
        if not (os.access(program, os.X_OK) and program.is_file() and (here / "ollmlx").exists()):
            continue
        if program.resolve() != (here / "ollmlx").resolve():  # pipx and uv put a link there
            yield found(
                "ENV011", f"{program} comes first on PATH, and this is {here / 'ollmlx'}", subject=str(program),
                evidence=("PATH",), severity=Severity.WARNING,
                commands=(SafeCommand(f"export PATH={quoted(here)}:$PATH"),),
            )  # fmt: skip
        return


def _user_site(context: CheckContext) -> Iterator[Finding]:
    """Report packages of the user's own folder that Python finds before those of this installation, as under conda."""
    user, own = context.machine.user_site, Path(sysconfig.get_path("purelib"))
    if user is None or context.environ.get("PYTHONNOUSERSITE") or (user / "ollmlx").is_dir():
        return
    hidden = [name for name in MODULES if (user / name).is_dir() and (own / name).is_dir() and user != own]
    if hidden:
        yield found(
            "ENV011", f"packages of the user site hide those of this installation: {', '.join(hidden[:SHOWN])}",
            subject=str(user), evidence=(str(user), "pip install --user put them there"),
            commands=(SafeCommand("export PYTHONNOUSERSITE=1"),), severity=Severity.WARNING,
        )  # fmt: skip


def _is_ours(entry: str) -> bool:
    """Return True if the folder is the one from which this very ollmlx runs."""
    return Path(__file__).resolve().is_relative_to(Path(entry).resolve())
