"""The program of a helper process: reads calls from standard input, answers on standard output, ends with its input."""

from __future__ import annotations

import importlib
import math
import os
import pickle
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ollmlx.errors import OllmlxError
from ollmlx.helper.pool import LENGTH, MEMORY
from ollmlx.helper.sandbox import enter


def main() -> None:
    """Serve calls until standard input ends."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    if sys.platform == "linux":  # files may be anywhere; what is read there goes nowhere but to the parent
        enter([Path("/")], [], "on")
    _limit_memory()
    while len(head := calls.read(LENGTH.size)) == LENGTH.size:
        call = calls.read(LENGTH.unpack(head)[0])
        module, name, arguments, cpu, output = pickle.loads(call)  # noqa: S301 - written by the parent process
        answer = pickle.dumps(_answer(module, name, arguments, cpu))
        if len(answer) > output:
            answer = pickle.dumps(("limit", f"has a result of more than {output >> 20} MiB"))
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


def _answer(module: str, name: str, arguments: tuple[Any, ...], cpu: int) -> tuple[str, Any]:
    try:
        function = getattr(importlib.import_module(module), name)
        _limit_cpu(cpu)
        return "result", function(*arguments)
    except OllmlxError as error:
        return "error", (type(error).__name__, error.message, error.code, error.hint)
    except MemoryError:
        return "limit", f"takes more than {MEMORY >> 20} MiB of memory to process"
    except RecursionError:
        return "limit", "is nested too deeply"
    except Exception as error:  # noqa: BLE001 - the parent raises it
        return "bug", f"{type(error).__name__}: {str(error)[:300]}"


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # macOS does not limit it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_cpu(seconds: int) -> None:
    """Have the kernel end this process (SIGXCPU) when the call has taken this much CPU time."""
    used = math.ceil(time.process_time())
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, most))


if __name__ == "__main__":
    main()
