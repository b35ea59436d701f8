"""The machine as the MLX backend sees it, and its choice of a BLAS. Imports neither mlx nor numpy.

All that depends on the platform is read here once, into plain values, so that tests can describe any machine.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import psutil

Device = Literal["metal", "cuda", "cpu"]

PACKAGES: Final = ("mlx", "mlx-cpu", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13", "mlx-lm", "mkl")
_NAMES: Final = ("model name", "Model", "CPU part")
_NVIDIA: Final = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg")


@dataclass(frozen=True)
class MlxMachine:
    """A machine as the backend sees it.

    `system`: sys.platform; `architecture`: as `uname -m`; `cpu`: its model name; `cores`: physical cores this process
    may use; `packages`: installed distributions of PACKAGES with their versions; `folders`: where Python packages put
    native libraries; `library_path`: LD_LIBRARY_PATH as it is; `root`: the root of the file system; `avx512`: the
    processor has these instructions.
    """

    system: str
    architecture: str
    cpu: str
    cores: int
    packages: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    library_path: str = ""
    root: Path = Path("/")
    avx512: bool = False

    @classmethod
    def here(cls) -> MlxMachine:
        return cls(
            system=sys.platform,
            architecture=platform.machine(),
            cpu=_about_cpu(*_NAMES) or platform.processor() or platform.machine(),
            cores=_cores(),
            packages=_installed(PACKAGES),
            folders=_library_folders(),
            library_path=os.environ.get("LD_LIBRARY_PATH", ""),
            avx512="avx512f" in _about_cpu("flags").split(),
        )

    @property
    def device(self) -> Device:
        """The device that MLX will compute on, found from the installed packages without importing them."""
        if self.system == "darwin":
            return "metal"
        has_driver = any((self.root / name).exists() for name in _NVIDIA)
        return "cuda" if has_driver and any(name.startswith("mlx-cuda") for name in self.packages) else "cpu"

    @property
    def has_mlx(self) -> bool:
        """Return whether MLX and one of its back ends for this system are installed."""
        needed = {"darwin": ("mlx-metal",)}.get(self.system, ("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13"))
        return "mlx" in self.packages and any(name in self.packages for name in needed)


@dataclass(frozen=True)
class BlasChoice:
    """The library for a child's matrix products.

    `name`: for people; `env`: variables for the child; `speed_up`: how many times as fast as the reference BLAS it is,
    None when not measured, as only the doctor does; `warning`: set when it is slower than it need be; `command`: what
    would make it faster; `rejected`: libraries that failed, with the reason; `streams`: CPU streams that the child
    computes on, two where the library uses one core and there are more; `library`: its file.
    """

    name: str
    env: dict[str, str] = field(default_factory=dict)
    speed_up: float | None = None
    warning: str = ""
    command: str = ""
    rejected: tuple[tuple[str, str], ...] = ()
    streams: int = 1
    library: Path | None = None

    @property
    def gone(self) -> bool:
        """Return whether the library was removed since, as when packages are upgraded beside a running daemon."""
        return self.library is not None and not self.library.is_file()


class BlasChooser:
    """Leaves the BLAS as MLX is shipped. In `linux_cpu` a subclass chooses the fastest.

    `wish` is the setting `blas`, `threads` the setting `threads`. Both methods may try libraries out: call them in a
    thread.
    """

    def choose(self, wish: str, threads: int) -> BlasChoice:
        return BlasChoice("the BLAS that MLX is shipped with")

    def advise(self, wish: str, threads: int) -> BlasChoice:
        """Return what the doctor reports: the library, its speed, and the command for a faster one."""
        return self.choose(wish, threads)


def _installed(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    return found


def _library_folders() -> tuple[Path, ...]:
    """Return the folders with a BLAS: of the package `scipy-openblas32`, and of `mkl`.

    The latter is `lib` of the environment, the base interpreter or the user.
    """
    spec = find_spec("scipy_openblas32")
    openblas = [Path(folder) / "lib" for folder in (spec and spec.submodule_search_locations) or ()]
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path("~/.local").expanduser()]
    return tuple(dict.fromkeys([*openblas, *(prefix / "lib" for prefix in prefixes)]))


def _cores() -> int:
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else physical
    return max(1, min(physical, usable))


def _about_cpu(*keys: str, file: Path = Path("/proc/cpuinfo")) -> str:
    """Return the first value of one of these keys that Linux tells about the processor, else nothing."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in keys:
                    return value.strip()
    except OSError:
        return ""
    return ""
