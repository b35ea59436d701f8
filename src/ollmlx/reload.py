"""Taking changed settings into a running daemon, for SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx.errors import ConfigError
from ollmlx.settings.reload import Reload, reloadable

if TYPE_CHECKING:
    from ollmlx.app import App
    from ollmlx.settings.sources import LoadedSettings

logger = logging.getLogger(__name__)


def reload(app: App, load: Callable[[], LoadedSettings]) -> Reload | None:
    """Read the settings again and apply what can change without a restart. Called on the daemon's event loop.

    `load` reads them as at start (same file, same flags). Unusable settings change nothing: their faults are logged and
    the answer is None.
    """
    try:
        found = load()
    except ConfigError as error:
        logger.error("settings are not taken over: %s", error.message)  # noqa: TRY400 - a fault of the file, not of the code
        return None
    change = reloadable(app.settings, found.settings)
    app.reconfigure(change.settings)
    logging.getLogger().setLevel(change.settings.logging.level.upper())
    for done in change.applied:
        logger.info("settings: %s", done)
    for waiting in change.restart:
        logger.warning("settings: %s needs a restart", waiting)
    if not change.applied and not change.restart:
        logger.info("settings: nothing changed")
    return change
