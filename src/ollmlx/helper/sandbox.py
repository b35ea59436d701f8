"""The sandbox of helpers, runners, importers and ranks: no network, no writes elsewhere, no reads beyond their needs.

Native code parses what strangers wrote. What an attacker gains there is this process, so it is allowed little. Linux:
Landlock for files, a seccomp filter for sockets, both through the system's C library, and no new privileges. macOS:
a sandbox profile (not run there yet). `enter` returns what the system did not allow to apply; nothing here is
needed to work.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Final

NOT_CONFINED: Final = "not confined: "
"""The beginning of a note that says what could not be applied."""
SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store", "/run/opengl-driver"),
    *("/proc", "/sys", "/etc/alternatives", "/etc/ld.so.conf.d", "/etc/OpenCL", "/etc/vulkan"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.preload", "/etc/localtime", "/etc/nsswitch.conf"),
    *("/etc/passwd", "/etc/group", "/etc/mime.types", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    *("/System", "/Library", "/private/var/db", "/private/etc"),
)
"""Programs, libraries and descriptions of the machine: read only."""
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "dri", "kfd", "nvidia*", "dxg")
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - GPU drivers share memory between threads of one process here

KEPT_CAPABILITIES: Final = (1, 2, 14, 23, 24)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK, CAP_SYS_NICE, CAP_SYS_RESOURCE: for a daemon that root runs."""

# Landlock's rights on files (include/uapi/linux/landlock.h), by the version that introduced them.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGES = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ADDED: Final = {1: _EXECUTE | _WRITE | _READ | _LIST | _CHANGES, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL}
_READING: Final = _EXECUTE | _READ | _LIST
_WRITING: Final = _READING | _WRITE | _CHANGES | _REFER | _TRUNCATE
_DEVICE: Final = _READ | _WRITE | _LIST | _IOCTL
_ON_FILES: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract unix sockets and signals
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_NO_NEW_PRIVS, _SET_FILTER, _SPECULATE = 38, 1, 1 << 2

_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | 13  # EACCES
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_MACHINES: Final = {
    # seccomp, audit name, socket, connect, and calls that reach other processes or go around this filter:
    # ptrace, process_vm_readv, process_vm_writev, io_uring_setup, pidfd_getfd, add_key, request_key, keyctl, bpf
    "x86_64": (317, 0xC000003E, 41, 42, (101, 310, 311, 425, 438, 248, 249, 250, 321)),
    "aarch64": (277, 0xC00000B7, 198, 203, (117, 270, 271, 425, 438, 217, 218, 219, 280)),
}


def enter(read: Iterable[Path], write: Iterable[Path], mode: str) -> tuple[str, ...]:
    """Give up all but reading the system and `read`, and changing `write`.

    Returns what could not be applied, for `ps` and the doctor. mode: `on`, `connect` for a program that connects to a
    unix socket of its own, `network` for one that needs the network, `off`. Call it before the process has other
    threads: threads that run already would not be confined.
    """
    if mode == "off":
        return (f"{NOT_CONFINED}it is switched off",)
    readable, writable = [*_python(), *read], list(write)
    if sys.platform == "darwin":
        return _confine_macos(readable, writable, mode)
    if sys.platform != "linux":
        return (f"{NOT_CONFINED}there is no sandbox for {sys.platform}",)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities(libc)
    return tuple(filter(None, (_confine_files(libc, readable, writable, mode), _confine_sockets(libc, mode))))


# -- what a runner needs -----------------------------------------------------------------------------------------------


def _python() -> Iterator[Path]:
    yield from map(Path, SYSTEM)
    yield from (Path(folder) for folder in {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path} if folder)
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        yield Path(folder)
        yield from (library.resolve() for library in Path(folder).glob("*.so*") if library.is_symlink())
    yield from (Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ)


def _devices() -> Iterator[Path]:
    for name in DEVICES:
        yield from Path("/dev").glob(name)
    if any(Path("/dev").glob("nvidia[0-9]*")):
        yield SHARED_MEMORY


# -- Linux -------------------------------------------------------------------------------------------------------------


def landlock_version() -> int:
    """Return the version of Landlock that this kernel offers; 0 for none."""
    if sys.platform != "linux":
        return 0
    found = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return max(0, int(found))


def _confine_files(libc: ctypes.CDLL, readable: Iterable[Path], writable: Iterable[Path], mode: str) -> str | None:
    version = landlock_version()
    if version == 0:
        return f"{NOT_CONFINED}files, because this kernel has no Landlock"
    handled = sum(rights for since, rights in _ADDED.items() if since <= version)
    ports = _TCP if version >= 4 and mode != "network" else 0
    attributes = struct.pack("=QQQ", handled, ports, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(_CREATE_RULESET, attributes[:size], ctypes.c_size_t(size), 0)
    if rules < 0:
        return f"{NOT_CONFINED}files ({os.strerror(ctypes.get_errno())})"
    try:
        for paths, rights in ((readable, _READING), (writable, _WRITING), (_devices(), _DEVICE | _CHANGES)):
            for path in dict.fromkeys(paths):
                _allow(libc, rules, path, rights & handled)
        if libc.syscall(_RESTRICT_SELF, rules, 0):
            return f"{NOT_CONFINED}files ({os.strerror(ctypes.get_errno())})"
    finally:
        os.close(rules)
    return None


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up root's powers but those over files and memory: the others reach other processes' memory, and more."""
    kept = sum(1 << bit for bit in KEPT_CAPABILITIES)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    held = ctypes.create_string_buffer(24)
    if libc.capget(header, held) == 0:
        low = [value & kept for value in struct.unpack("=6I", held.raw)[:3]]
        libc.capset(header, struct.pack("=6I", *low, 0, 0, 0))


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it is not there, so nothing needs it
        return
    try:
        allowed = rights if path.is_dir() else rights & _ON_FILES
        libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", allowed, place), 0)
    finally:
        os.close(place)


def socket_filter(machine: str, mode: str) -> bytes | None:
    """Return the seccomp program: no sockets but those that the mode permits, nothing of other processes."""
    if machine not in _MACHINES:
        return None
    _, audit, socket, connect, others = _MACHINES[machine]
    refused = [*others, *((socket, connect) if mode == "on" else ())]
    steps = [(_LOAD, 0, 0, 4), (_EQUALS, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # the other numbers of x86-64's x32
    for call in refused:
        steps += [(_EQUALS, 0, 1, call), (_RETURN, 0, 0, _REFUSE)]
    if mode == "connect":  # unix sockets only: the family is the first argument
        steps += [(_EQUALS, 0, 3, socket), (_LOAD, 0, 0, 16), (_EQUALS, 1, 0, 1), (_RETURN, 0, 0, _REFUSE)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _confine_sockets(libc: ctypes.CDLL, mode: str) -> str | None:
    program = socket_filter(platform.machine(), mode)
    if program is None:
        return f"{NOT_CONFINED}the network, because there is no filter for {platform.machine()}"
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    given = Program(len(program) // 8, ctypes.addressof(buffer))
    # Older kernels slow a process with a filter down, unless it says that it needs no protection from itself.
    if libc.syscall(_MACHINES[platform.machine()][0], _SET_FILTER, _SPECULATE, ctypes.byref(given)):
        return f"{NOT_CONFINED}the network ({os.strerror(ctypes.get_errno())})"
    return None


# -- macOS: not run yet ----------------------------------------------------------------------------------------------


def macos_profile(readable: Iterable[Path], writable: Iterable[Path], home: Path, mode: str = "on") -> str:
    """Return a profile in the language of sandbox-exec: the person's files, the network and writes are closed."""
    lines = ["(version 1)", "(allow default)", "(deny file-write*)"]
    lines += ["(deny network-outbound)", "(deny network-bind)"] if mode != "network" else []
    lines += [f"(deny file-read-data (subpath {_quoted(place)}))" for place in (home, Path("/Volumes"))]
    lines += [f"(allow file-read* (subpath {_quoted(path)}))" for path in (*readable, *writable)]
    lines += [f"(allow file-write* (subpath {_quoted(path)}))" for path in writable]
    lines += ['(allow file-write-data (literal "/dev/null"))']
    lines += [f"(allow network* (subpath {_quoted(path)}))" for path in writable]
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    text = str(path.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _confine_macos(readable: Iterable[Path], writable: Iterable[Path], mode: str) -> tuple[str, ...]:
    library = ctypes.CDLL(find_library("sandbox"))
    reason = ctypes.c_char_p()
    profile = macos_profile(readable, writable, Path.home(), mode).encode()
    if library.sandbox_init(profile, ctypes.c_uint64(0), ctypes.byref(reason)):
        return (f"{NOT_CONFINED}{(reason.value or b'refused').decode(errors='replace')}",)
    return ()
