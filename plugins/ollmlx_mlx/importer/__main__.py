"""`python -m ollmlx_mlx.importer --source PATH --into DIR`: makes an MLX folder from another format.

Writes progress to standard output, a `PullProgress` a line. Exits with 0, or with a sentence on standard error and a
code that tells a bad model (65) from other failures. The daemon removes the files of a failed import.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from ollmlx.errors import InvalidRequest, OutOfMemory, StorageError
from ollmlx.protocol import ExitCode
from ollmlx.types import PullProgress

INTERVAL: Final = 0.1
"""Seconds between two lines of progress within one step."""


class ProgressPrinter:
    """Writes progress to a stream, at most one line in `INTERVAL` within one step."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._status = ""
        self._next = 0.0

    def __call__(self, progress: PullProgress) -> None:
        now = time.monotonic()
        finished = progress.total is not None and progress.completed == progress.total
        if progress.status == self._status and now < self._next and not finished:
            return
        self._status, self._next = progress.status, now + INTERVAL
        self._stream.write(progress.model_dump_json(exclude_none=True) + "\n")
        self._stream.flush()


def run(source: Path, into: Path, options: dict[str, Any], report: ProgressPrinter) -> None:
    """Import a GGUF file or a folder of safetensors. Raises OllmlxError."""
    quantize = options.get("quantize")
    into.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        from ollmlx_mlx.importer.convert import convert_folder

        convert_folder(source, into, quantize, report)
    else:
        from ollmlx_mlx.importer.gguf_import import import_gguf

        import_gguf(source, into, report, quantize=quantize)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ollmlx_mlx.importer", description="Make an MLX model folder.")
    parser.add_argument("--source", required=True, type=Path, help="a GGUF file, or a folder of safetensors")
    parser.add_argument("--into", required=True, type=Path, help="an empty folder")
    parser.add_argument("--options", default="{}", help='JSON, for example {"quantize": "int4"}')
    try:
        given = parser.parse_args(arguments)
        options = json.loads(given.options)
    except ValueError:
        return _fail(ExitCode.USAGE, "--options is not JSON")
    except SystemExit as asked:
        return ExitCode.USAGE if asked.code else 0
    if not isinstance(options, dict):
        return _fail(ExitCode.USAGE, "--options is not a JSON object")
    try:
        run(given.source, given.into, options, ProgressPrinter(sys.stdout))
    except (StorageError, InvalidRequest) as error:
        code = 1 if error.code == "STO003" else ExitCode.BAD_MODEL  # a full disk is no damaged model
        return _fail(code, f"{error.message}; {error.hint}" if error.hint else error.message)
    except (OutOfMemory, MemoryError) as error:
        return _fail(ExitCode.OUT_OF_MEMORY, f"out of memory: {error}")
    except OSError as error:
        return _fail(1, f"cannot write the model: {error.strerror or error}")
    except RuntimeError as error:
        # MLX raises it for a file of weights that it cannot write, among other things.
        if "write" not in str(error) and "open" not in str(error):
            raise
        return _fail(1, f"the weights could not be written; is the disk full? ({error})")
    return 0


def _fail(code: int, message: str) -> int:
    sys.stderr.write(message.replace("\n", " ") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
