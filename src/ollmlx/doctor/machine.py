"""The machine, its processes and its ports, as plain values. Checks read these and do not ask the system themselves."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import resource
import shutil
import site
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ollmlx.doctor.daemon import LOOK_UP_SECONDS, look_up
from ollmlx.plugin.loader import in_background
from ollmlx.supervisor.machine import ThisMachine, listening_process, read_sysctl
from ollmlx.supervisor.process.guarded import guarded_group
from ollmlx.text.addresses import join_host_port
from ollmlx.text.quantities import format_size

LOCK = "ollmlx.lock"
BUSY = 0.9
MUCH_SWAP = 100 * 1000**2
MANY_CLOSED = 50
_NVIDIA = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg")


def free_space(path: Path) -> int | None:
    """Return the free bytes on the file system of a path, or of its nearest folder that exists."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def free_inodes(path: Path) -> int | None:
    """Return the number of files that can still be made beside a path; None if nothing counts them."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            status = os.statvfs(folder)
            return status.f_favail if status.f_files else None
    return None


def mount_flags(path: Path) -> Sequence[str]:
    """Return the flags of the file system of a path that keep programs from working."""
    with suppress(OSError):
        flag = os.statvfs(path).f_flag
        noexec = getattr(os, "ST_NOEXEC", 0)
        return [name for name, bit in (("ro", os.ST_RDONLY), ("noexec", noexec)) if flag & bit]
    return []


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True)
class Machine:
    """The properties of a machine. Sizes are in bytes; None means unknown, or not present on this machine.

    `system`: sys.platform. `architecture`: the output of `uname -m`. `rosetta`: Rosetta translates this process.
    `wired_limit`: iogpu.wired_limit_mb in bytes, 0 if macOS decides. `nvidia_gpu`: an NVIDIA card is on the bus.
    `nvidia_driver`: the version of its driver. Limits of this process: open files, processes of this user, bytes of
    address space. `flags`: of the file system of a path, as `mount` names them. `user_site`: the folder in which Python
    looks for the user's own packages before the installed ones; None if it does not.
    """

    system: str
    architecture: str = "x86_64"
    python: tuple[int, int, int] = (3, 11, 0)
    implementation: str = "CPython"
    bits: int = 64
    macos: tuple[int, ...] = ()
    rosetta: bool = False
    cores: int = 1
    ram: int = 0
    available: int = 0
    swap_total: int = 0
    swap_used: int = 0
    container_limit: int | None = None
    in_container: bool = False
    wired_limit: int | None = None
    nvidia_gpu: bool = False
    nvidia_driver: str | None = None
    files_limit: int | None = None
    process_limit: int | None = None
    address_limit: int | None = None
    user_site: Path | None = None
    free_space: Callable[[Path], int | None] = free_space
    free_inodes: Callable[[Path], int | None] = free_inodes
    flags: Callable[[Path], Sequence[str]] = mount_flags

    @classmethod
    def here(cls, root: Path = Path("/")) -> Machine:
        """Return the machine that this process runs on."""
        ram, available, swap_total, swap_used = _memory()
        mac = sys.platform == "darwin"
        return cls(
            system=sys.platform,
            architecture=platform.machine(),
            python=sys.version_info[:3],
            implementation=platform.python_implementation(),
            bits=64 if sys.maxsize > 2**32 else 32,
            macos=tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit()),
            rosetta=mac and read_sysctl("sysctl.proc_translated") == 1,
            cores=os.cpu_count() or 1,
            ram=ram,
            available=available,
            swap_total=swap_total,
            swap_used=swap_used,
            container_limit=ThisMachine(root).container(),
            in_container=any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")),
            wired_limit=(read_sysctl("iogpu.wired_limit_mb") or 0) * 1024 * 1024 if mac else None,
            nvidia_gpu=has_nvidia_gpu(root),
            nvidia_driver=nvidia_driver(root),
            files_limit=_limit(resource.RLIMIT_NOFILE),
            process_limit=_limit(resource.RLIMIT_NPROC) if os.getuid() else None,
            address_limit=_limit(resource.RLIMIT_AS),
            user_site=Path(site.getusersitepackages()) if site.ENABLE_USER_SITE else None,
        )


def _memory() -> tuple[int, int, int, int]:
    """Return the size of the memory, its free part, the size of the swap and its used part; 0 if nothing tells."""
    ram = available = total = used = 0
    with suppress(OSError, ValueError):  # without /proc
        ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, psutil.Error, RuntimeError):
        memory = psutil.virtual_memory()
        ram, available = int(memory.total), int(memory.available)
    with suppress(OSError, psutil.Error, RuntimeError):
        swap = psutil.swap_memory()
        total, used = int(swap.total), int(swap.used)
    return ram, available, total, used


def has_nvidia_gpu(root: Path) -> bool:
    """Return True if an NVIDIA card is on the bus, or its driver is loaded."""
    if any((root / name).exists() for name in _NVIDIA):
        return True
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        with suppress(OSError):
            kind = (vendor.parent / "class").read_text(encoding="ascii")
            if vendor.read_text(encoding="ascii").strip() == "0x10de" and kind.startswith("0x03"):
                return True
    return False


def nvidia_driver(root: Path) -> str | None:
    """Return the version of NVIDIA's driver, as the kernel reports it."""
    with suppress(OSError):
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
        return match.group(1) if match else None
    return None


def seconds_since_start() -> float:
    """Return how long this process has run, two seconds at most: a starved machine is examined all the same."""
    with suppress(psutil.Error, OSError):
        return min(max(time.time() - psutil.Process().create_time(), 0.0), 2.0)
    return 0.0


@dataclass(frozen=True)
class Process:
    """A process. `uid` is None and `command` is empty if the system hides them.

    `parent`: the name of the process that started it. `started`: seconds since 1970, 0 if that is hidden.
    """

    pid: int
    name: str
    command: tuple[str, ...] = ()
    user: str = ""
    uid: int | None = None
    status: str = ""
    parent: str = ""
    started: float = 0.0

    @property
    def is_ollmlx(self) -> bool:
        """True if this is a daemon or a command of ollmlx, as far as its command shows."""
        return any(Path(word).name == "ollmlx" for word in self.command)

    def __str__(self) -> str:
        return f"{self.name}, pid {self.pid}" + (f", user {self.user}" if self.user else "")


@dataclass(frozen=True)
class Vitals:
    """The use of a core (1.0: all of it), the bytes in the swap space, the connections that their clients closed."""

    core: float = 0.0
    swapped: int = 0
    closed: int = 0

    def told(self) -> tuple[str, ...]:
        """Return what is not as it should be, a line each."""
        lines = {
            f"it uses {self.core:.0%} of a core": self.core >= BUSY,
            f"{format_size(self.swapped)} of it are in the swap space": self.swapped >= MUCH_SWAP,
            f"it has {self.closed} connections that their clients closed": self.closed >= MANY_CLOSED,
        }
        return tuple(line for line, wrong in lines.items() if wrong)


@dataclass(frozen=True)
class Completed:
    """A finished child process: its output and exit status (negative: a signal; None: it exceeded the time limit)."""

    status: int | None
    out: str
    err: str


class Processes:
    """Reads processes and ports from the operating system."""

    def listener(self, port: int) -> Process | None:
        """Return the process that listens on a TCP port; None if there is none, or the system hides it."""
        process = listening_process(port)
        return self.get(process[1]) if process is not None else None

    def listens(self, pid: int) -> tuple[str, ...]:
        """Return the addresses on which a process listens, as HOST:PORT; empty if there are none or they are hidden."""
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except (psutil.Error, OSError):
            return ()
        local = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN and one.laddr]
        return tuple(join_host_port(end.ip, end.port) for end in local)

    def get(self, pid: int) -> Process | None:
        """Return the process with an id."""
        try:
            found = psutil.Process(pid)
            with found.oneshot():
                name, status, started = found.name(), found.status(), found.create_time()
                command: Sequence[str] = ()
                user, uid, parent = "", None, ""
                with suppress(psutil.AccessDenied):
                    command = found.cmdline()
                with suppress(psutil.AccessDenied, KeyError):
                    user, uid = found.username(), found.uids().real
                with suppress(psutil.Error):
                    parent = above.name() if (above := found.parent()) else ""
        except (psutil.Error, OSError, ValueError, OverflowError):  # a file may tell any number
            return None
        return Process(pid, name, tuple(command), user, uid, status, parent, started)

    def lock_owner(self, state_folder: Path) -> Process | None:
        """Return the daemon that holds the lock of a state folder; None if it does not run.

        It may listen at another address than the one in the settings.
        """
        try:
            text = (state_folder / LOCK).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            return None
        process = self.get(int(text)) if text.isdigit() else None
        # The process id may have been reused: then the command is another program's, where the system shows it.
        if process is None or process.status == psutil.STATUS_ZOMBIE:  # nobody waits for it: it has ended
            return None
        if process.command and not any("ollmlx" in word for word in process.command):
            return None
        return process

    def vitals(self, pid: int, seconds: float = 1.0) -> Vitals:
        """Watch a process for some time."""
        core, waiting = 0.0, 0
        with suppress(psutil.Error, OSError):
            watched = psutil.Process(pid)
            with suppress(psutil.AccessDenied):
                waiting = sum(one.status == psutil.CONN_CLOSE_WAIT for one in watched.net_connections("tcp"))
            core = watched.cpu_percent(seconds) / 100
        swapped = 0
        with suppress(OSError, ValueError):  # Linux only
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            swapped = int(status.partition("VmSwap:")[2].split()[0]) * 1024 if "VmSwap:" in status else 0
        return Vitals(core, swapped, waiting)

    def variables(self, pid: int) -> Mapping[str, str]:
        """Return the environment of a process; empty if it may not be read."""
        try:
            return psutil.Process(pid).environ()
        except (psutil.Error, OSError, ValueError, OverflowError):  # a file may tell any number
            return {}

    def connects(self, host: str, port: int, seconds: float = 0.5) -> bool:
        """Return True if a connection to the address is accepted."""
        try:
            *_, name = look_up(host, port)
            with socket.create_connection(name[:2], timeout=seconds):
                return True
        except (OSError, UnicodeError):
            return False

    def addresses(self, name: str) -> tuple[str, ...] | None:
        """Return the addresses of a name; empty if it has none, None if nothing answers in time."""
        asked = in_background("look-up", lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        try:
            return tuple(dict.fromkeys(str(entry[4][0]) for entry in asked.result(LOOK_UP_SECONDS)))
        except TimeoutError:
            return None
        except (OSError, UnicodeError):
            return ()

    def is_here(self, host: str) -> bool:
        """Return True if a host is this machine: one of its addresses, or all of them."""
        return self.bindable(host, 0) is None

    def bindable(self, host: str, port: int) -> str | None:
        """Return the reason why a server cannot bind this address; None if it can."""
        try:
            family, _, _, _, name = look_up(host, port)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
        except (OSError, UnicodeError) as error:
            return getattr(error, "strerror", None) or str(error)
        return None


async def run_child(argv: Sequence[str], seconds: float) -> Completed:
    """Run a program in the root folder, without input; kill it after `seconds`. Raises OSError if it cannot start."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with guarded_group(process.pid):
            out, err = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        return Completed(None, "", "")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    return Completed(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
