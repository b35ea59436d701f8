"""Prompt caches that outlive their runner: one safetensors file each, in a private, bounded folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from mlx_lm.models.cache import KVCache, QuantizedKVCache, load_prompt_cache, save_prompt_cache
from numpy.typing import NDArray

from ollmlx import read_safetensors_header
from ollmlx.errors import StorageError
from ollmlx_mlx.engine.cache.layers import Layers, can_trim

VERSION: Final = "1"
LEAST_TOKENS: Final = 64
"""Shorter prefixes are computed faster than they are read."""

_log = logging.getLogger(__name__)

Tokens = NDArray[np.int32]
Found = tuple[Tokens, bool, Callable[[], Layers | None]]


class CacheFolder:
    """The saved caches of one model in one form.

    `limit`: bytes for the caches of all models together; `sample`: an empty cache of this model.
    """

    def __init__(self, root: Path, identity: dict[str, str], limit: int, sample: Layers) -> None:
        self._root = root
        self._kinds = [type(layer) for layer in sample]
        self._identity = json.dumps({"version": VERSION, **identity}, sort_keys=True)
        self._folder = root / hashlib.sha256(self._identity.encode()).hexdigest()[:24]
        self._limit = limit

    def entries(self) -> tuple[list[Found], list[str]]:
        """What is there: tokens and a function that reads the cache. A damaged or foreign file is told and skipped."""
        found: list[Found] = []
        problems: list[str] = []
        for path in sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
            try:
                metadata = _metadata(path)
                if metadata["identity"] != self._identity:
                    raise ValueError("it belongs to another model")
                tokens = np.array(json.loads(metadata["tokens"]), dtype=np.int32)
            except (StorageError, OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"saved prompt cache {path.name} ignored: {error}")
                _log.warning("%s", problems[-1])
                continue
            found.append((tokens, metadata.get("trimmable") == "True", partial(self._read, path, len(tokens))))
        return found, problems

    def save(self, entries: Sequence[tuple[Tokens, Layers]]) -> None:
        """Write caches, the most recently used first, until the bound is reached. Failures are logged, not raised."""
        if not entries:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            room = self._limit
            for tokens, layers in entries:
                size = sum(layer.nbytes for layer in layers)
                if len(tokens) < LEAST_TOKENS or size > room:
                    continue
                room -= size
                self._write(tokens, layers)
            self._forget_oldest()
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("prompt caches were not saved: %s", error)

    def _write(self, tokens: Tokens, layers: Layers) -> None:
        name = hashlib.sha256(tokens.tobytes()).hexdigest()[:24]
        target, staged = self._folder / f"{name}.safetensors", self._folder / f".{name}.{os.getpid()}.safetensors"
        metadata = {
            "identity": self._identity,
            "tokens": json.dumps(tokens.tolist()),
            "trimmable": str(can_trim(layers)),
        }
        try:
            save_prompt_cache(str(staged), layers, metadata)
            staged.chmod(0o600)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def _read(self, path: Path, length: int) -> Layers | None:
        try:
            layers: Layers = load_prompt_cache(str(path))
            if [type(layer) for layer in layers] != self._kinds:
                raise ValueError("its layers are of other kinds than the model's")
            if any(layer.offset != length for layer in layers if isinstance(layer, (KVCache, QuantizedKVCache))):
                raise ValueError("its length is not what it says")
            os.utime(path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the prefix is computed again
            _log.warning("saved prompt cache %s ignored: %s", path.name, error)
            return None
        return layers

    def _forget_oldest(self) -> None:
        files = sorted(self._root.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        held = 0
        for path in files:
            held += path.stat().st_size
            if held > self._limit:
                path.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, Any]:
    """What was saved beside the arrays, without reading them. Raises StorageError, ValueError for a damaged file."""
    read_safetensors_header(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    # mlx-lm flattens a list of three into string keys; what was handed to it is the first.
    prefix = "0."
    stored = header.get("__metadata__", {})
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
