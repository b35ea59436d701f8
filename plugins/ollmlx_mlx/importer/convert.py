"""Converts a folder of safetensors, as a hub has it, to an MLX folder, quantised if asked. In a child process only."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.utils import quantize_model, save_config, save_model

from ollmlx.errors import InvalidRequest, OllmlxError, StorageError
from ollmlx.storekit import check_space, require_json
from ollmlx.types import PullProgress
from ollmlx_mlx.engine.load import load_error, parameters, read_stored
from ollmlx_mlx.folder import remote_code, weight_sizes

Report = Callable[[PullProgress], None]

MODES: Final = {
    **{f"int{bits}": (64, bits, "affine") for bits in (2, 3, 4, 5, 6, 8)},
    "mxfp4": (32, 4, "mxfp4"),
    "mxfp8": (32, 8, "mxfp8"),
    "nvfp4": (16, 4, "nvfp4"),
}
"""Names of quantisations: group size, bits, MLX's mode."""
_GGUF_NAME: Final = re.compile(r"q([2-68])(_[01k](_[sml])?)?")
_KEPT: Final = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|generation_config|preprocessor_config)"
    r"[^/]*\.(json|model|txt|jinja)|[^/]*\.tiktoken|(LICENSE|LICENCE|NOTICE|COPYING)[^/]*|README\.md",
    re.IGNORECASE,
)


def quantization(name: str) -> tuple[int, int, str]:
    """Return group size, bits and mode of a quantisation by MLX's (`int4`, `mxfp4`) or GGUF's (`q4_K_M`) name.

    Raises InvalidRequest for another name.
    """
    word = name.strip().lower()
    if gguf := _GGUF_NAME.fullmatch(word):
        word = f"int{gguf.group(1)}"
    if word not in MODES:
        raise InvalidRequest(f"unsupported quantization type {name[:40]!r}", hint=f"use one of {', '.join(MODES)}")
    return MODES[word]


def convert_folder(source: Path, into: Path, quantize: str | None, report: Report) -> None:
    """Write the model in the folder `source` to `into`. Raises StorageError and InvalidRequest."""
    wanted = quantization(quantize) if quantize else None
    config = require_json(source, "config.json")
    if isinstance(config.get("vision_config"), dict):
        raise InvalidRequest(
            "quantizing this model here would lose its vision encoder",
            hint="python -m mlx_vlm.convert --hf-path FOLDER --mlx-path NEW -q keeps it",
        )
    asked = remote_code(source)
    if asked is not None:
        raise StorageError(f"it asks for its own Python code to be run ({asked})", code="SEC005")
    if wanted and (config.get("quantization") or config.get("quantization_config")):
        raise InvalidRequest("quantization is only supported for F16, BF16 and F32 models")
    weight_sizes(source, config)  # refuses damaged headers before mlx reads them
    report(PullProgress(status="converting model"))
    try:
        # mlx-lm prints to standard output, which is for the progress.
        with redirect_stdout(sys.stderr):
            model, config = _convert(source, wanted, report)
    except (OllmlxError, OSError):
        raise
    except Exception as error:
        raise load_error(error, source) from error
    check_space(into, sum(array.nbytes for array in parameters(model)))
    with redirect_stdout(sys.stderr):
        save_model(into, model, donate_model=True)
        save_config(config, config_path=into / "config.json")
    for file in sorted(source.iterdir()):
        if _KEPT.fullmatch(file.name) and file.is_file():
            shutil.copyfile(file, into / file.name)


def _convert(source: Path, wanted: tuple[int, int, str] | None, report: Report) -> tuple[Module, dict[str, Any]]:
    """Return the model, computed and in memory, and its configuration."""
    model, config = read_stored(source)
    if wanted is not None:
        group, bits, mode = wanted
        model, config = quantize_model(model, config, group, bits, mode=mode)
    arrays = parameters(model)
    total, done = sum(array.nbytes for array in arrays), 0
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        report(PullProgress(status="quantizing model" if wanted else "converting model", total=total, completed=done))
    return model, config
