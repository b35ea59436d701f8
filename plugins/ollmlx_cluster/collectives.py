"""What the ranks of a group tell one another: small numbers and JSON, summed over the group by MLX.

Every rank makes the same calls in the same order; what differs is that only rank 0's contribution is not zero. A lost
rank makes the call fail on all others.
"""

from __future__ import annotations

import json
from typing import Any, Final

import mlx.core as mx

STOP: Final = 0
GO: Final = 1
_TOKENS: Final = 2


class Link:
    """One rank's end. Used on one thread."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self.group = group
        self.rank: int = group.rank()
        self.size: int = group.size()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which decides."""
        return self.rank == 0

    def word(self, value: int = STOP) -> int:
        """Rank 0's value, on every rank."""
        return int(self._sum(mx.array([value if self.leads else 0], dtype=mx.int32))[0])

    def tell(self, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """Rank 0's message, on every rank."""
        raw = json.dumps(message).encode() if self.leads else b""
        length = self.word(len(raw))
        data = mx.array(list(raw), dtype=mx.int32) if self.leads else mx.zeros(length, dtype=mx.int32)
        told: dict[str, Any] = json.loads(bytes(self._sum(data)))
        return told

    def gather(self, value: int) -> list[int]:
        """Everybody's value, by rank, on every rank."""
        own = mx.array([value if rank == self.rank else 0 for rank in range(self.size)], dtype=mx.int32)
        return self._sum(own)

    def _sum(self, array: mx.array) -> list[int]:
        # On the CPU stream: a rank that waits for the next request must not occupy the GPU.
        summed = mx.distributed.all_sum(array, group=self.group, stream=mx.cpu)
        values: Any = summed.tolist()
        return [int(value) for value in values]


def as_word(token: int) -> int:
    """A token as a word."""
    return token + _TOKENS


def as_token(word: int) -> int | None:
    """The token of a word, or None when the word is GO."""
    return word - _TOKENS if word >= _TOKENS else None
