"""Models that other programs keep on this machine: the store "local" reads their folders in place and writes nothing.

The plugin imports what every plugin may import. Its modules are imported when a hook needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from ollmlx import hookimpl

if TYPE_CHECKING:
    from ollmlx import PluginContext, Store


class LocalModelsSettings(BaseModel):
    """Folders of models that other programs keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: tuple[Path, ...] = Field(
        (),
        description="Folders with models in ORG/NAME/, to read in place besides the caches of Hugging Face and"
        " llama.cpp and the folder of LM Studio.",
    )


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    """Register the table `[plugins.local_models]`."""
    register(LocalModelsSettings)


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    """Register the store "local"."""
    from ollmlx_local_models.folders import known_folders
    from ollmlx_local_models.store import LocalStore

    own = context.own or LocalModelsSettings()
    register(LocalStore(known_folders(os.environ, sys.platform, Path.home(), own.folders)))
