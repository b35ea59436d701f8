"""The `options` object: Ollama's names, types and error sentences, and the treatment of values out of range. Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ollmlx.errors import InvalidRequest
from ollmlx.types import Options

logger = logging.getLogger(__name__)

_INTEGERS = ("top_k", "seed", "repeat_last_n", "num_predict", "num_ctx", "num_keep", "draft_num_predict")
_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
IGNORED = frozenset({"num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap"})
"""Options of llama.cpp that have no meaning here. Their types are checked, as in Ollama."""
TYPES = {
    **dict.fromkeys(_INTEGERS, "integer"),
    **dict.fromkeys(_FLOATS, "float32"),
    **dict.fromkeys(IGNORED, "integer"),
    "use_mmap": "boolean",
    "stop": "array",
    "backend": "string",
}
"""Every known option, with the name of its type in Ollama's error messages."""
_NOT_NUMBERS: dict[str, Any] = {"boolean": bool, "array": list, "string": str}

MOST_NAMED = 20
"""Unknown options that are named in the log."""
LARGEST = 2**31 - 1
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_k": (0, LARGEST),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repeat_last_n": (-1, LARGEST),
    "num_predict": (-2, LARGEST),
    "num_ctx": (4, LARGEST),  # 4 is Ollama's smallest
    "num_keep": (-1, LARGEST),
    "draft_num_predict": (0, LARGEST),
}


def text_options(given: Mapping[str, Any]) -> Options:
    """Return the options of a request for vectors, whose texts may be cut to fewer tokens than a prompt."""
    found, context = options(given), given.get("num_ctx")
    if type(context) is int and 0 < context < _RANGES["num_ctx"][0]:
        return found.model_copy(update={"num_ctx": context})
    return found


def options(given: Mapping[str, Any]) -> Options:
    """Return the options of a request or a Modelfile. A null option counts as not given.

    Raises InvalidRequest for a known option of the wrong type. An unknown option is logged and ignored. A value that no
    sampler can use becomes the nearest usable one; see docs/api.md.
    """
    found: dict[str, Any] = {}
    stated = {name: value for name, value in given.items() if value is not None}
    if unknown := [name for name in stated if name not in TYPES]:
        logger.warning("invalid option provided: %s", ", ".join(map(repr, unknown[:MOST_NAMED])))
    for name in filter(TYPES.__contains__, stated):
        typed = _typed(name, stated[name])
        if name not in IGNORED:
            found[name] = typed
    if found.get("num_ctx", 1) <= 0:
        del found["num_ctx"]
    if found.get("num_predict", 0) < -2:
        found["num_predict"] = -1
    if found.get("repeat_penalty", 1) <= 0:
        found["repeat_penalty"] = 1.0
    if "seed" in found:
        found["seed"] = found["seed"] % 2**63 if found["seed"] >= 0 else -1
    for name, (low, high) in _RANGES.items():
        if name in found:
            found[name] = type(found[name])(min(max(found[name], low), high))
    return Options(**found)


def _typed(name: str, value: Any) -> Any:
    """Return the value of a known option as its type. Raises InvalidRequest."""
    kind = TYPES[name]
    accepted = _NOT_NUMBERS.get(kind, (int, float))
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "boolean"):
        raise InvalidRequest(f'option "{name}" must be of type {kind}')
    match kind:
        case "integer":
            return int(value)
        case "float32":
            try:
                return float(value)
            except OverflowError:
                raise InvalidRequest(f'option "{name}" is out of range') from None
        case "array":
            if not all(isinstance(item, str) for item in value):
                raise InvalidRequest(f'option "{name}" must be of an array of strings')
            return tuple(value)
    return value
