"""The settings: every key with its default, the sources of values, and how faults are reported.

The model is imported on first use: a command that needs only the place of the settings file imports `settings.files`.
The runner, the plugins and everything below `ollmlx.plugin` import nothing from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollmlx._lazy import lazy_exports

if TYPE_CHECKING:
    from ollmlx.settings.model import Settings as Settings

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"ollmlx.settings.model": "Settings"})
