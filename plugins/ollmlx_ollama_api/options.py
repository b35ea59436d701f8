"""The `options` object: Ollama's names, types and error sentences, and the treatment of values out of range. Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ollmlx.errors import InvalidRequest
from ollmlx.types import Options

logger = logging.getLogger(__name__)

INTEGERS = frozenset({"top_k", "seed", "repeat_last_n", "num_predict", "num_ctx", "num_keep", "draft_num_predict"})
FLOATS = frozenset(
    {
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    }
)
IGNORED = {
    "num_batch": "integer",
    "num_gpu": "integer",
    "main_gpu": "integer",
    "num_thread": "integer",
    "use_mmap": "boolean",
}
"""Options of llama.cpp that have no meaning here. Their types are checked, as in Ollama."""

LARGEST = 2**31 - 1
_SMALLEST_CONTEXT = 4  # Ollama's


def options(given: Mapping[str, Any]) -> Options:
    """Return the options of a request or a Modelfile. A null option counts as not given.

    Raises InvalidRequest for a known option of the wrong type. An unknown option is logged and ignored. A value that no
    sampler can use becomes the nearest usable one; see docs/api.md.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in INTEGERS:
            found[name] = _integer(name, value)
        elif name in FLOATS:
            found[name] = _float(name, value)
        elif name == "stop":
            found[name] = _strings(name, value)
        elif name == "backend":
            found[name] = _string(name, value)
        elif name in IGNORED:
            _check(name, value, IGNORED[name])
        else:
            logger.warning("invalid option provided: %r", name)
    return Options(**{name: value for name, value in _usable(found).items() if value is not None})


def _usable(found: dict[str, Any]) -> dict[str, Any]:
    """Bring the values into the range of the samplers; None stands for an option that was not given."""
    ranges: dict[str, tuple[float, float]] = {
        "temperature": (0, math.inf),
        "top_k": (0, LARGEST),
        "top_p": (0, 1),
        "min_p": (0, 1),
        "typical_p": (0, 1),
        "repeat_last_n": (-1, LARGEST),
        "num_keep": (-1, LARGEST),
        "draft_num_predict": (0, LARGEST),
    }
    for name, (low, high) in ranges.items():
        if name in found:
            found[name] = type(found[name])(min(max(found[name], low), high))
    if found.get("repeat_penalty", 1) <= 0:
        found["repeat_penalty"] = 1.0
    if found.get("num_predict", 0) < -2:
        found["num_predict"] = -1
    if "num_predict" in found:
        found["num_predict"] = min(found["num_predict"], LARGEST)
    if "num_ctx" in found:
        asked = found["num_ctx"]
        found["num_ctx"] = min(max(asked, _SMALLEST_CONTEXT), LARGEST) if asked > 0 else None
    if "seed" in found:
        found["seed"] = max(found["seed"], -1) % 2**63 if found["seed"] >= 0 else -1
    return found


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f'option "{name}" must be of type integer')
    return int(value)


def _float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f'option "{name}" must be of type float32')
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(f'option "{name}" is out of range') from None


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f'option "{name}" must be of type string')
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidRequest(f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f'option "{name}" must be of an array of strings')
    return tuple(value)


def _check(name: str, value: Any, wanted: str) -> None:
    if wanted == "boolean" and not isinstance(value, bool):
        raise InvalidRequest(f'option "{name}" must be of type boolean')
    if wanted == "integer":
        _integer(name, value)
