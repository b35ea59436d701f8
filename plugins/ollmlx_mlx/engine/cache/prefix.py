"""The prefix cache: what earlier requests computed, for the ones that begin alike.

Why not mlx-lm's `LRUPromptCache`: it keeps a Python dictionary per token, evicts by count as well as by bytes, and has
no place for entries that are still on disk. Its idea is kept: caches that can be trimmed serve any common prefix, the
others only an exact one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ollmlx_mlx.engine.cache.layers import Layers, can_trim, clone, compact, size_of

_LEAST = 8

Tokens = NDArray[np.int32]
Load = Callable[[], Layers | None]


@dataclass(eq=False)
class Entry:
    """One remembered sequence. `layers` is None while it is only on disk, where `load` gets it from."""

    tokens: Tokens
    layers: Layers | None
    nbytes: int
    trimmable: bool
    load: Load | None = None
    used: int = field(default=0)


class PrefixCache:
    """Entries within a budget of bytes, the least recently used going first. Used on the compute thread only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        self._clock = 0

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(entry.nbytes for entry in self._entries if entry.layers is not None)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """What is remembered, the most recently used first."""
        return sorted(self._entries, key=lambda entry: -entry.used)

    def remember(self, entry: Entry) -> None:
        """Add an entry as it is (one found on disk)."""
        self._entries.append(entry)

    def fetch(self, tokens: Sequence[int]) -> tuple[Layers | None, int]:
        """A cache of the caller's own for the longest known prefix, and its length; at least one token is left over."""
        wanted = np.asarray(tokens, dtype=np.int32)
        while True:
            best, length = self._best(wanted)
            if best is None:
                return None, 0
            if best.layers is None and not self._fill(best):
                self._entries.remove(best)
                continue
            assert best.layers is not None
            self._touch(best)
            return clone(best.layers, len(best.tokens) - length), length

    def insert(self, tokens: Sequence[int], layers: Layers) -> None:
        """Remember a finished sequence; the cache passes into the ownership of this one."""
        if len(tokens) < _LEAST or self._max_bytes <= 0:
            return
        own = np.asarray(tokens, dtype=np.int32)
        layers = compact(layers)
        trimmable = can_trim(layers)
        entry = Entry(own, layers, size_of(layers), trimmable)
        if entry.nbytes > self._max_bytes:
            return
        for other in list(self._entries):
            shared = _shared(own, other.tokens)
            if shared == len(own) and (other.trimmable or len(other.tokens) == len(own)):
                self._touch(other)
                return
            if shared == len(other.tokens) and trimmable:
                self._entries.remove(other)
        self._entries.append(entry)
        self._touch(entry)
        self._shrink(self._max_bytes)

    def know(self, tokens: Tokens, *, trimmable: bool, load: Load) -> None:
        """A sequence that is on disk; it is read when it is first wanted."""
        self._entries.append(Entry(tokens, None, 0, trimmable, load))

    def held(self) -> list[tuple[Tokens, Layers]]:
        """The sequences in memory, the most recently used first."""
        entries = sorted(self._entries, key=lambda entry: -entry.used)
        return [(entry.tokens, entry.layers) for entry in entries if entry.layers is not None]

    def clear(self) -> None:
        """Give the memory back. What is on disk stays known."""
        self._shrink(0)

    def _best(self, wanted: Tokens) -> tuple[Entry | None, int]:
        best, length = None, _LEAST - 1
        for entry in self._entries:
            shared = min(_shared(wanted, entry.tokens), len(wanted) - 1)
            if not entry.trimmable and shared < len(entry.tokens):
                continue
            if shared > length:
                best, length = entry, shared
        return best, length

    def _fill(self, entry: Entry) -> bool:
        layers = entry.load() if entry.load is not None else None
        if layers is None:
            return False
        entry.layers, entry.nbytes = layers, size_of(layers)
        self._touch(entry)
        self._shrink(max(self._max_bytes, entry.nbytes))
        return True

    def _touch(self, entry: Entry) -> None:
        self._clock += 1
        entry.used = self._clock

    def _shrink(self, limit: int) -> None:
        held = self.nbytes
        for entry in sorted(self._entries, key=lambda entry: entry.used):
            if held <= limit:
                return
            if entry.layers is None:
                continue
            held -= entry.nbytes
            entry.layers = None
            if entry.load is None:
                self._entries.remove(entry)


def _shared(first: Tokens, second: Tokens) -> int:
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if len(different) else size


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return _shared(np.asarray(first, dtype=np.int32), np.asarray(second, dtype=np.int32))
