"""How many prompt tokens to compute at a time, so that a slice takes about as long on any device."""

from __future__ import annotations

SLICE_SECONDS = 0.25
ALONE = 2.0
"""Slices that a prompt may take at once while nobody waits for tokens: it still can be cancelled within a second."""
_SMALLEST, _LARGEST = 16, 2048


class ChunkClock:
    """Learns the speed of prefill and answers with the size of the next chunk.

    Sizes are powers of two times 16, so that a device that compiles or pads by shape sees few of them. `start` is the
    size of the first chunk, before anything is known.
    """

    def __init__(self, start: int = 64, seconds: float = SLICE_SECONDS) -> None:
        self._seconds = seconds
        self._rate = start / seconds

    def size(self, slices: float = 1.0) -> int:
        """Tokens for a chunk of so many slices."""
        wanted = self._rate * self._seconds * slices
        size = _SMALLEST
        while size * 2 <= wanted and size < _LARGEST:
            size *= 2
        # Between powers of two the larger one would overrun the slice by up to a factor of two: take three quarters.
        return size + size // 2 if size * 1.5 <= wanted and size < _LARGEST else size

    def learn(self, tokens: int, seconds: float) -> None:
        """A chunk of so many tokens took so long. Small chunks say little about speed and are weighed down."""
        if tokens <= 0 or seconds <= 0:
            return
        weight = min(0.5, tokens / (2 * max(1.0, self._rate * self._seconds)))
        # Never more than twice as fast at once: the first chunks of a fast device would leap past the slice.
        rate = min(tokens / seconds, 4 * self._rate)
        self._rate += weight * (rate - self._rate)
