"""A model's folder as the daemon may look at it: small JSON files, bounded, and what in them would run code."""

from __future__ import annotations

import json
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ollmlx.errors import StorageError

MAX_JSON: Final = 16 << 20
_CODE_KEYS: Final = {"config.json": ("model_file", "auto_map"), "tokenizer_config.json": ("auto_map",)}


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON object of the folder, None when there is no such file. Raises StorageError when it cannot be one."""
    path = folder / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_JSON:
            raise StorageError(f"{folder.name}/{name} is no usable file", code="MDL003")
        content = _parsed(path, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {folder.name}/{name}: {error.strerror}", code="MDL003") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{folder.name}/{name} is not valid JSON", code="MDL003") from error
    if not isinstance(content, dict):
        raise StorageError(f"{folder.name}/{name} is not a JSON object", code="MDL003")
    return content


@lru_cache(maxsize=256)
def _parsed(path: Path, size: int, mtime_ns: int) -> Any:
    """The content for one state of the file: every request asks for it. Not to be changed by anybody."""
    return json.loads(path.read_bytes())


def remote_code(folder: Path) -> str | None:
    """Where a model asks for its own Python code to be run (`config.json: model_file`), or None."""
    for name, keys in _CODE_KEYS.items():
        content = read_json(folder, name) or {}
        for key in keys:
            if content.get(key):
                return f"{name}: {key}"
    return None
