"""Calls of functions in helper processes, of which there are at most two. They start when they are first needed.

What a stranger wrote (a template, a schema, a large header) can make its parser take hours or gigabytes, and a thread
cannot be stopped. A helper can: it is killed at its limit, and the next call gets another one. Calls block: make them
in a thread.
"""

from __future__ import annotations

import atexit
import importlib
import io
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final, TypeVar

from ollmlx.errors import InvalidRequest, OllmlxError

HELPERS: Final = 2
START_SECONDS: Final = 0.5
"""Seconds that the start of a helper takes on a busy machine, at most."""
CPU_SECONDS: Final = 2
MEMORY: Final = 512 << 20
OUTPUT: Final = 8 << 20
PATIENCE: Final = 8
"""Seconds of waiting for each second of CPU time: the machine may be busy."""
LENGTH: Final = struct.Struct("<Q")
KEPT: Final = ("HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that a helper inherits: Python finds itself and its packages with them."""

T = TypeVar("T")


class LimitExceeded(InvalidRequest):
    """Processing was stopped at a limit. The message names the limit."""


def run_limited(
    function: Callable[..., T],
    *arguments: Any,
    what: str,
    cpu: int = CPU_SECONDS,
    output: int = OUTPUT,
    code: str | None = None,
) -> T:
    """Return `function(*arguments)`, computed in a helper. `what` is its subject in errors, such as "the template".

    `function` is one of a module's. Arguments and result are plain data: numbers, texts, lists, dictionaries. Raises
    the function's OllmlxError, and LimitExceeded when it takes more than `cpu` seconds of CPU time, `MEMORY` bytes, or
    has a result of more than `output` bytes; `code` is then its finding.
    """
    call = pickle.dumps((function.__module__, function.__qualname__, arguments, cpu, output))
    with _free:
        helper = _taken()
        try:
            kind, value = helper.call(call, cpu, output)
        except _Stopped as stopped:
            helper.kill()
            kind, value = "limit", str(stopped)
        except BaseException:
            helper.kill()
            raise
        else:
            _idle.append(helper)
        finally:
            with _returned:
                _busy.remove(helper)
                _returned.notify()
    if kind == "result":
        return value  # type: ignore[no-any-return]
    if kind == "limit":
        raise LimitExceeded(f"{what} {value}", code=code)
    if kind == "error":
        name, message, code, hint = value
        raise _error_class(name)(message, code=code, hint=hint)
    raise RuntimeError(f"the helper failed: {value}")


def _taken() -> _Helper:
    """Return an idle helper; a second one is started only when the first is busy for longer than a start takes."""
    with _returned:
        _returned.wait_for(lambda: _idle or not _busy, START_SECONDS)
        helper = _idle.pop() if _idle else _Helper()
        _busy.append(helper)
    return helper


def close_helpers() -> None:
    """End the helpers that do nothing at present."""
    while _idle:
        _idle.pop().kill()


class _Stopped(Exception):
    """A helper reached a limit, and is of no more use."""


class _Helper:
    """One helper process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in KEPT if os.environ.get(name, "").startswith("/")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ollmlx.helper.process"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, cwd="/",
            env=environment, start_new_session=True,
        )  # fmt: skip

    def call(self, data: bytes, cpu: int, output: int) -> tuple[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + (cpu + 2) * PATIENCE
        with suppress(BrokenPipeError):  # it has ended: reading tells why
            _write(self._process.stdin, LENGTH.pack(len(data)) + data)
        head = self._read(self._process.stdout, LENGTH.size, deadline, cpu)
        (size,) = LENGTH.unpack(head)
        if size > output:
            raise _Stopped(f"has a result of more than {output >> 20} MiB")
        answer = self._read(self._process.stdout, size, deadline, cpu)
        return _PlainData(io.BytesIO(answer)).load()  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self, pipe: IO[bytes], size: int, deadline: float, cpu: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Stopped("takes too long to process")
            piece = pipe.read(size - len(found))
            if not piece:
                raise _Stopped(_cause_of_end(self._process.wait(), cpu))
            found += piece
        return bytes(found)


def _write(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _cause_of_end(status: int, cpu: int) -> str:
    if status == -signal.SIGXCPU:
        return f"takes more than {cpu} s of CPU time to process"
    return f"takes more than {MEMORY >> 20} MiB of memory to process, or crashes its parser (status {status})"


class _PlainData(pickle.Unpickler):
    """Reads data without classes or functions: what a helper sends may be what a stranger made it send."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not plain data")


def _error_class(name: str) -> type[OllmlxError]:
    found = getattr(importlib.import_module("ollmlx.errors"), name, InvalidRequest)
    return found if isinstance(found, type) and issubclass(found, OllmlxError) else InvalidRequest


_idle: list[_Helper] = []
_busy: list[_Helper] = []
_returned = threading.Condition()
_free = threading.BoundedSemaphore(HELPERS)
atexit.register(close_helpers)
