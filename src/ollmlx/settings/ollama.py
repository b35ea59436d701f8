"""Ollama's own variables, as settings. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ollmlx.settings.keys import KeyPath
from ollmlx.text.quantities import FOREVER, parse_duration

_FALSE = {"0", "false", "f", "no", "off"}


def cleaned(value: str) -> str:
    """A variable's value as Ollama reads it: without space and quotes around it."""
    return value.strip().strip("\"'").strip()


def _list(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _load_timeout(value: str) -> str | float:
    """Zero and less mean no limit."""
    try:
        return FOREVER if parse_duration(value) <= 0 else value
    except ValueError:
        return value


def _debug(value: str) -> str | None:
    """Any value that is not false switches it on, as in Ollama."""
    return None if value.lower() in _FALSE else "debug"


def _as_is(value: str) -> str:
    return value


VARIABLES: dict[str, tuple[KeyPath, Callable[[str], Any]]] = {
    "OLLAMA_HOST": (("server", "host"), _as_is),
    "OLLAMA_ORIGINS": (("server", "origins"), _list),
    "OLLAMA_MODELS": (("storage", "models"), _as_is),
    "OLLAMA_KEEP_ALIVE": (("runners", "keep_alive"), _as_is),
    "OLLAMA_NUM_PARALLEL": (("runners", "parallel"), _as_is),
    "OLLAMA_MAX_LOADED_MODELS": (("runners", "max_loaded_models"), _as_is),
    "OLLAMA_MAX_QUEUE": (("runners", "max_queue"), _as_is),
    "OLLAMA_LOAD_TIMEOUT": (("runners", "load_timeout"), _load_timeout),
    "OLLAMA_CONTEXT_LENGTH": (("runners", "context_length"), _as_is),
    "OLLAMA_KV_CACHE_TYPE": (("runners", "kv_cache_type"), _as_is),
    "OLLAMA_DEBUG": (("logging", "level"), _debug),
}
"""Each variable that ollmlx honours, the setting it stands for, and how its text is read."""


def ollama_values(environ: Mapping[str, str] = os.environ) -> list[tuple[str, KeyPath, Any]]:
    """(variable, setting, raw value) of each variable that is set and not empty."""
    found = []
    for name, (path, read) in VARIABLES.items():
        text = cleaned(environ.get(name, ""))
        if text and (value := read(text)) is not None:
            found.append((name, path, value))
    return found
