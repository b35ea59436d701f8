"""The faults of fake models, each by its name. Most of them really end or block the process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ollmlx.errors import InvalidRequest, OutOfMemory, StorageError, from_kind

FOR_EVER = 3600
FLUSH_TURNS = 100
"""Turns of the event loop before a fault strikes: earlier events are written to the socket in them."""

Fault = Callable[[str], None]


def _exit(code: str) -> None:
    os.write(2, b"fake: exiting as told\n")
    os._exit(int(code or "1"))


def _signal(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[f"SIG{name.upper()}"])


def _segv(_: str) -> None:
    ctypes.string_at(0)


def _oom(_: str) -> None:
    os.write(2, b"fake: out of memory: needs 999 GiB\n")
    os._exit(75)


def _hold_interpreter_lock(_: str) -> None:
    os.write(2, b"fake: holding the interpreter lock\n")
    # PyDLL, unlike CDLL, keeps the lock during the call: no Python code runs any more, in any thread.
    ctypes.PyDLL(None).sleep(FOR_EVER)


def _flood(mib: str) -> None:
    line = b"fake: noise " + b"x" * 1011 + b"\n"
    for _ in range(int(mib or "100") * 1024):
        os.write(2, line)


def _bug(text: str) -> None:
    raise RuntimeError(text or "a bug in the fake engine")


def _error(kind: str) -> None:
    raise from_kind(kind or "internal", f"fake: told to fail with {kind}")


def _bad_model(_: str) -> None:
    raise StorageError("fake: model.safetensors is damaged", hint="ollmlx pull it again", code="MDL003")


def _no_memory(_: str) -> None:
    raise OutOfMemory("fake: needs 999 GiB, there are 3")


def _touched(mib: str) -> bytearray:
    return bytearray(os.urandom(1)) * (int(mib or "256") * 1024 * 1024)


BALLAST: list[bytearray] = []
"""Memory that is only a cache: a trim frees it."""
LEAKED: list[bytearray] = []
"""Memory that no trim frees."""

SUDDEN: dict[str, Fault] = {
    "exit": _exit,
    "signal": _signal,
    "kill": lambda _: _signal("kill"),
    "segv": _segv,
    "abort": lambda _: os.abort(),
    "oom": _oom,
    "gil": _hold_interpreter_lock,
    "stop": lambda _: _signal("stop"),
    "block": lambda _: time.sleep(FOR_EVER),
    "flood": _flood,
    "bug": _bug,
    "error": _error,
    "bad_model": _bad_model,
    "no_memory": _no_memory,
    "memory": lambda mib: BALLAST.append(_touched(mib)),
    "leak": lambda mib: LEAKED.append(_touched(mib)),
}
"""Faults of the process or the request. `NAME:ARGUMENT`: `exit:CODE`, `signal:NAME`, `flood:MIB`, `memory:MIB`,
`leak:MIB`, `error:KIND`."""


class Verbatim(bytes):
    """Bytes that do not change when a line end is added to them."""

    def __add__(self, other: Any) -> bytes:
        return bytes(self)


class RawLine:
    """Looks like an event to the runner and is sent as the given bytes, to break the protocol."""

    def __init__(self, data: bytes, *, last: bool = False) -> None:
        self.type = "done" if last else "raw"
        self._data = Verbatim(data)
        self.__pydantic_serializer__ = self

    def to_json(self, event: object, **options: object) -> bytes:
        return self._data


WIRE: dict[str, tuple[RawLine, ...]] = {
    "eof": (RawLine(b"", last=True),),
    "garbage": (RawLine(b"<html>this is not an event</html>\n"),),
    "longline": (RawLine(b'{"type":"text","text":"' + b"x" * (2 * 1024 * 1024) + b'"}\n'),),
    "utf8": (RawLine(b'{"type":"text","text":"\xff\xfe"}\n'),),
    "schema": (RawLine(b'{"type":"text","words":1}\n'),),
    "halfline": (RawLine(b'{"type":"text","te', last=True),),
}
"""Faults of the stream: an end without `done`, and lines that are no events."""


class PlannedFault:
    """One fault, its argument, and the place in the answer where it strikes. Raises InvalidRequest for unknown ones."""

    def __init__(self, text: str) -> None:
        what, _, where = text.partition("@")
        self.name, _, self.argument = what.partition(":")
        self.where = where or "start"
        if self.name not in SUDDEN and self.name not in WIRE and self.name != "hang":
            known = ", ".join(sorted({*SUDDEN, *WIRE, "hang"}))
            raise InvalidRequest(f"there is no fault {self.name!r}; there are {known}")

    async def strike(self) -> tuple[RawLine, ...]:
        """Cause the fault. Returns the lines to send, if it returns at all."""
        if self.name == "hang":  # the engine is stuck while the socket answers
            await asyncio.sleep(FOR_EVER)
        if self.name in WIRE:
            return WIRE[self.name]
        for _ in range(FLUSH_TURNS):
            await asyncio.sleep(0)
        SUDDEN[self.name](self.argument)
        return ()


def start_children(count: int, *, escaped: bool) -> None:
    """Start sleeping child processes. `escaped` ones leave the process group, so a signal to the group misses them."""
    argv = [sys.executable, "-I", "-S", "-c", f"import time; time.sleep({FOR_EVER})"]
    for _ in range(count):
        subprocess.Popen(argv, process_group=0 if escaped else None)
