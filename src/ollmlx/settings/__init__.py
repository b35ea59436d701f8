"""The settings: every key with its default, where values come from, and what is wrong with them.

The model is imported on first use: a client command asks `settings.files` first, and often needs nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollmlx.settings.model import (
        ClusterSettings,
        LoggingSettings,
        MemorySettings,
        ModelSettings,
        PluginSettings,
        RunnerSettings,
        SecuritySettings,
        ServerSettings,
        Settings,
        StorageSettings,
    )

__all__ = [
    "ClusterSettings",
    "LoggingSettings",
    "MemorySettings",
    "ModelSettings",
    "PluginSettings",
    "RunnerSettings",
    "SecuritySettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ollmlx.settings import model

    return getattr(model, name)
