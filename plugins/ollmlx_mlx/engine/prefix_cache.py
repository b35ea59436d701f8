"""The prefix cache: what earlier requests computed, in memory and on disk, for requests that begin alike.

Why not mlx-lm's `LRUPromptCache`: it keeps a Python dictionary per token, evicts by count as well as by bytes, and has
no entries that are still on disk. Its idea is kept: caches that can be trimmed serve any common prefix, the others only
an exact one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ollmlx_mlx.engine.kv_cache import Layers, can_trim, clone, compact, size_of

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
