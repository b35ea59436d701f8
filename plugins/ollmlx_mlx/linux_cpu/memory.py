"""Memory that the C library keeps after it was freed. Threads that compute leave hundreds of megabytes of it."""

from __future__ import annotations

import ctypes


def trim_heap(library: ctypes.CDLL | None = None) -> bool:
    """Return the C library's free memory to the system. False where it has no such function (it is not glibc)."""
    trim = getattr(library or ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True
