"""`python -m ollmlx_llamacpp.dry_load FILE...`: llama.cpp builds models without reading their weights.

It reads metadata and vocabulary, and compares name and shape of every tensor with the architecture; no memory is
reserved for them. Then it is asked for an impossible context, so that nothing is computed with absent weights.
Prints a JSON line for each file: `folder` (its path), `problem` (null if it can be loaded), `code` and `command`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import xllamacpp

from ollmlx import read_gguf_header
from ollmlx.errors import OllmlxError
from ollmlx_llamacpp.server import load_error, wait_for_reason

STOPPED: Final = "V cache"
"""Words of the error about the impossible context: the model itself was loaded."""


def main(files: list[str]) -> None:
    """Examine each file."""
    steps = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for file in files:
        problem, code, command = examine(Path(file))
        steps.write(json.dumps({"folder": file, "problem": problem, "code": code, "command": command}) + "\n")
        steps.flush()


def examine(file: Path) -> tuple[str | None, str, str]:
    """Return why a file cannot be loaded, the code of the finding, and the command that mends it; None if it can."""
    folder = Path(tempfile.mkdtemp(prefix="d-"))
    saved, log = os.dup(2), folder / "log"
    try:
        header = read_gguf_header(file, longest=0, here=True)
        with log.open("wb") as output:
            os.dup2(output.fileno(), 2)
            with suppress(RuntimeError):
                xllamacpp.Server(_params(file, folder / "s.sock"))
            reason = wait_for_reason(log)
        if STOPPED in reason:
            return None, "", ""
        error: OllmlxError = load_error(file.name, header.architecture, reason)
        known = error.code != "MDL003"
        error.message = error.message.removesuffix(f" of {file.name}") if known else f"llama.cpp: {reason}"
    except OllmlxError as damaged:
        error = damaged
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        shutil.rmtree(folder, ignore_errors=True)
    hint = error.hint or ""
    return error.message, error.code or "MDL003", hint if hint.startswith("pip ") else ""


def _params(file: Path, socket: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames = [str(socket)]
    params.n_threads_http = params.n_parallel = 1
    params.n_ctx = params.n_batch = params.n_ubatch = 32
    params.n_gpu_layers = 0
    params.fit_params = params.warmup = False
    params.no_alloc = params.no_extra_bufts = True
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    params.verbosity = 1
    return params


if __name__ == "__main__":
    main(sys.argv[1:])
