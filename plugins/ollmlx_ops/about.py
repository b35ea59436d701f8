"""What a daemon says of itself to people on its machine: `/api/daemon`, which the doctor reads. Pure."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ollmlx import __version__
from ollmlx.protocol import PROTOCOL_VERSION
from ollmlx.types import RunnerInfo

if TYPE_CHECKING:
    from ollmlx import Settings

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["version", "pid", "python", "protocol", "address", "models_folder", "state_folder", "runners"],
    "properties": {
        "version": {"type": "string"},
        "pid": {"type": "integer"},
        "python": {"type": "string"},
        "protocol": {"type": "integer"},
        "address": {"type": "string"},
        "api_keys": {"type": "boolean"},
        "allow_no_auth": {"type": "boolean"},
        "models_folder": {"type": "string"},
        "state_folder": {"type": "string"},
        "runners": {"type": "array", "items": {"type": "object"}},
    },
}


def about(settings: Settings, runners: Sequence[RunnerInfo]) -> dict[str, Any]:
    """Version, process, address, folders, and every runner with how it failed; failed ones stay here for a while."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "protocol": PROTOCOL_VERSION,
        "address": settings.server.host,
        "api_keys": bool(settings.security.api_keys),
        "allow_no_auth": settings.security.allow_no_auth,
        "models_folder": str(settings.models_folder),
        "state_folder": str(settings.state_folder),
        "runners": [_runner(one) for one in runners],
    }


def _runner(one: RunnerInfo) -> dict[str, Any]:
    return {
        "name": one.model.name.short,
        "state": str(one.state),
        "backend": one.backend,
        "pid": one.pid,
        "restarts": one.restarts,
        "reserved": one.reserved,
        "memory": one.memory,
        "code": one.last_code,
        "error": one.last_error,
        "last_words": list(one.last_words),
    }
