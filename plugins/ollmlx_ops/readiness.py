"""Why the daemon cannot take new work. A model that loads, fails or is absent is no reason."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollmlx import Settings


def problems(settings: Settings, *, stopping: str = "") -> list[str]:
    """The reasons, one sentence each; none when it is ready. `stopping`: why the daemon itself takes none.

    Looks at the file system: call it in a thread.
    """
    found = [stopping] if stopping else []
    folder = settings.models_folder
    if folder.exists() and not folder.is_dir():
        found.append("the models folder is not a folder")
    elif folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        found.append("the models folder cannot be read")
    elif not folder.exists() and not _can_be_made(settings):
        found.append("the models folder is not there and cannot be made")
    return found


def _can_be_made(settings: Settings) -> bool:
    above = next((parent for parent in settings.models_folder.parents if parent.exists()), None)
    return above is not None and above.is_dir() and os.access(above, os.W_OK | os.X_OK)
