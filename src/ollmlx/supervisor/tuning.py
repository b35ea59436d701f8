"""Figures of the supervisor that no user has a reason to change. A test passes its own to `Pool`."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Durations in seconds, sizes in bytes."""

    probe_interval: float = 1.0
    """Time between two health probes of a runner."""
    stop_timeout: float = 5.0
    """Time between asking a runner to stop and killing it."""
    swap_wait: float = 5.0
    """Requests for a loaded model may pass one that would evict the model for at most this long."""
    hard_share: float = 1.5
    """A runner that uses more than this multiple of its reservation is killed, but see `slack`."""
    slack: int = 512 * MIB
    """A runner may exceed its reservation by this much before `hard_share` applies."""
    soft_share: float = 0.85
    """A runner above this share of its hard limit gets no new requests and drops its caches."""
