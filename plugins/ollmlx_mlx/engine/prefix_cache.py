"""The prefix cache: what earlier requests computed, in memory and on disk, for requests that begin alike.

Why not mlx-lm's `LRUPromptCache`: it keeps a Python dictionary per token, evicts by count as well as by bytes, and has
no entries that are still on disk. Its idea is kept: caches that can be trimmed serve any common prefix, the others only
an exact one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, QuantizedKVCache, load_prompt_cache, save_prompt_cache
from numpy.typing import NDArray

from ollmlx import read_safetensors_header
from ollmlx.errors import StorageError
from ollmlx_mlx.engine.kv_cache import Layers, can_trim, clone, compact, size_of

_log = logging.getLogger(__name__)

VERSION: Final = "1"
LEAST_TOKENS: Final = 64
"""Shorter prefixes are computed faster than they are read from disk."""
MOST_IN_MEMORY: Final = 32
"""Sequences that are kept in memory, however small: twice as many as are computed at once."""
_LEAST: Final = 8
"""Shorter prefixes are not kept at all."""

Tokens = NDArray[np.int32]
Load = Callable[[], Layers | None]


@dataclass(eq=False)
class CachedPrefix:
    """A cached sequence. `layers` is None while it is only on disk; `load` reads it from there.

    `owner`: only requests of this owner use it, and learn that it exists.
    """

    owner: str
    tokens: Tokens
    layers: Layers | None
    nbytes: int
    trimmable: bool
    load: Load | None = None
    used: int = 0


class PrefixCache:
    """Cached sequences within a limit of bytes and of their number; the least recently used go first.

    Used on the compute thread only.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: list[CachedPrefix] = []
        self._clock = 0

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries if entry.layers is not None)

    def __len__(self) -> int:
        return len(self._entries)

    def fetch(self, owner: str, tokens: Sequence[int]) -> tuple[Layers | None, int]:
        """Return a copy of the cache of the owner's longest cached prefix, and its length.

        At least one token is left over.
        """
        wanted = np.asarray(tokens, dtype=np.int32)
        while True:
            best, length = self._best(owner, wanted)
            if best is None:
                return None, 0
            if best.layers is None and not self._load(best):
                self._entries.remove(best)
                continue
            assert best.layers is not None
            self._touch(best)
            return clone(best.layers, len(best.tokens) - length), length

    def insert(self, owner: str, tokens: Sequence[int], layers: Layers) -> None:
        """Keep a finished sequence. The caller must not use `layers` any more."""
        if len(tokens) < _LEAST or self._max_bytes <= 0:
            return
        own = np.asarray(tokens, dtype=np.int32)
        layers = compact(layers)
        trimmable = can_trim(layers)
        entry = CachedPrefix(owner, own, layers, size_of(layers), trimmable)
        if entry.nbytes > self._max_bytes:
            return
        for other in self._of(owner):
            shared = _shared(own, other.tokens)
            if shared == len(own) and (other.trimmable or len(other.tokens) == len(own)):
                self._touch(other)
                return
            if shared == len(other.tokens) and trimmable:
                self._entries.remove(other)
        self._entries.append(entry)
        self._touch(entry)
        self._shrink(self._max_bytes)

    def add_saved(self, entries: Sequence[CachedPrefix]) -> None:
        """Add sequences that are on disk. Each is read when it is first needed."""
        self._entries += entries

    def in_memory(self) -> list[CachedPrefix]:
        """Return the sequences in memory, the most recently used first."""
        entries = sorted(self._entries, key=lambda entry: -entry.used)
        return [entry for entry in entries if entry.layers is not None]

    def clear(self) -> None:
        """Free the memory. Sequences on disk stay listed."""
        self._shrink(0)

    def _of(self, owner: str) -> list[CachedPrefix]:
        return [entry for entry in self._entries if entry.owner == owner]

    def _best(self, owner: str, wanted: Tokens) -> tuple[CachedPrefix | None, int]:
        best, length = None, _LEAST - 1
        for entry in self._of(owner):
            shared = min(_shared(wanted, entry.tokens), len(wanted) - 1)
            if not entry.trimmable and shared < len(entry.tokens):
                continue
            if shared > length:
                best, length = entry, shared
        return best, length

    def _load(self, entry: CachedPrefix) -> bool:
        layers = entry.load() if entry.load is not None else None
        if layers is None:
            return False
        entry.layers, entry.nbytes = layers, size_of(layers)
        self._touch(entry)
        self._shrink(max(self._max_bytes, entry.nbytes))
        return True

    def _touch(self, entry: CachedPrefix) -> None:
        self._clock += 1
        entry.used = self._clock

    def _shrink(self, limit: int) -> None:
        held, kept = self.nbytes, len(self.in_memory())
        for entry in sorted(self._entries, key=lambda entry: entry.used):
            if held <= limit and kept <= MOST_IN_MEMORY:
                return
            if entry.layers is None:
                continue
            held, kept = held - entry.nbytes, kept - 1
            entry.layers = None
            if entry.load is None:
                self._entries.remove(entry)


def _shared(first: Tokens, second: Tokens) -> int:
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if len(different) else size


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of equal tokens at the beginning of two sequences."""
    return _shared(np.asarray(first, dtype=np.int32), np.asarray(second, dtype=np.int32))


class CacheFolder:
    """Caches saved on disk for one model in one form: one safetensors file each, in a private folder.

    `limit`: bytes for the caches of this model; `sample`: an empty cache of this model.
    """

    def __init__(self, root: Path, identity: dict[str, str], limit: int, sample: Layers) -> None:
        self._root = root
        self._kinds = [type(layer) for layer in sample]
        self._identity = json.dumps({"version": VERSION, **identity}, sort_keys=True)
        self._folder = root / hashlib.sha256(self._identity.encode()).hexdigest()[:24]
        self._limit = limit

    def read_index(self) -> tuple[list[CachedPrefix], list[str]]:
        """Return the saved caches, not read yet, and the problems of files that are skipped."""
        found: list[CachedPrefix] = []
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
            load = partial(self._read, path, len(tokens))
            owner = metadata.get("owner", "")
            found.append(CachedPrefix(owner, tokens, None, 0, metadata.get("trimmable") == "True", load))
        return found, problems

    def save(self, entries: Sequence[CachedPrefix]) -> None:
        """Write caches, the most recently used first, until the limit is reached. Failures are logged, not raised."""
        if not entries:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            room = self._limit
            for entry in entries:
                if len(entry.tokens) < LEAST_TOKENS or entry.nbytes > room or entry.layers is None:
                    continue
                room -= entry.nbytes
                self._write(entry.owner, entry.tokens, entry.layers)
            self._remove_oldest()
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("prompt caches were not saved: %s", error)

    def _write(self, owner: str, tokens: Tokens, layers: Layers) -> None:
        name = hashlib.sha256(owner.encode() + tokens.tobytes()).hexdigest()[:24]
        target, staged = self._folder / f"{name}.safetensors", self._folder / f".{name}.{os.getpid()}.safetensors"
        metadata = {
            "identity": self._identity,
            "owner": owner,
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
                raise ValueError("it has another length than its metadata")
            os.utime(path)
        except Exception as error:  # noqa: BLE001 - the prefix is computed again instead
            _log.warning("saved prompt cache %s ignored: %s", path.name, error)
            return None
        return layers

    def _remove_oldest(self) -> None:
        files = sorted(self._root.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        held = 0
        for path in files:
            held += path.stat().st_size
            if held > self._limit:
                path.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, Any]:
    """Return the metadata without reading the arrays. Raises StorageError, ValueError for a damaged file."""
    read_safetensors_header(path)
    loaded: Any = mx.load(str(path), return_metadata=True)  # arrays are read when they are needed
    # mlx-lm flattens a list of three into string keys; ours is the first.
    return {key.removeprefix("0."): value for key, value in loaded[1].items() if key.startswith("0.")}
