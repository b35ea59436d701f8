"""The settings a command line asks for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollmlx.settings import Settings
    from ollmlx.settings.load import LoadedSettings


def settings(args: argparse.Namespace) -> Settings:
    """The settings for `--config` and what else a verb's flags override. Raises ConfigError with every fault."""
    return load(args).settings


def load(args: argparse.Namespace) -> LoadedSettings:
    """The same, with where each value came from."""
    from ollmlx.settings.load import load_settings

    return load_settings(Path(args.config) if args.config else None, overrides(args))


def overrides(args: argparse.Namespace) -> dict[str, object]:
    """Flags as settings, by dotted key."""
    found: dict[str, object] = {}
    if args.host:
        found["server.host"] = args.host
    if args.debug:
        found["logging.level"] = "debug"
    if getattr(args, "models_folder", None):
        found["storage.models"] = args.models_folder
    return found
