"""Two CPU streams side by side.

MLX computes a CPU stream on one thread, one operation after the other, and a BLAS with threads of its own speeds up
nothing but matrix products, and spins while it waits. Two halves of a layer on two streams use two cores for all that
a layer does. Handing over costs 0.1 to 0.2 ms, so only work of half a millisecond and more is divided.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import mlx.core as mx

WORTH_DIVIDING: Final = 18_000_000
"""`effort` of about half a millisecond on a core of 2024."""

_ROW: Final = 10
"""Reading a weight from memory takes as long as multiplying it with so many rows."""

_mine = threading.local()


def open_second() -> None:
    """Give this thread a second stream. Arrays belong to the thread that makes them, and so do streams."""
    _mine.second = mx.new_stream(mx.Device(mx.DeviceType.cpu))


def close_second() -> None:
    """Take the second stream away from this thread."""
    _mine.second = None


def divides(work: int) -> bool:
    """Whether this thread has a second stream, and so much work (in `effort`) is worth dividing."""
    return work >= WORTH_DIVIDING and getattr(_mine, "second", None) is not None


def effort(rows: int, weights: int) -> int:
    """How long a product of `rows` vectors with `weights` numbers takes, in units of one multiplication."""
    return weights * (rows + _ROW)


def side_by_side(here: Callable[[], mx.array], there: Callable[[], mx.array]) -> list[mx.array]:
    """Two results, the second computed on the second stream, which must be there (`divides`)."""
    with mx.stream(_mine.second):
        other = there()
    return [here(), other]
