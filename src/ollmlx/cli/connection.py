"""Which daemon a command talks to, and with which key."""

from __future__ import annotations

import argparse
import os

from ollmlx.cli.client import Client
from ollmlx.text.addresses import Address


def connect(args: argparse.Namespace) -> Client:
    """The client for `--host`, else for the address the settings name (OLLAMA_HOST included).

    The settings are read only where they can say anything but their defaults: reading them costs more than the call.
    The daemon's own API key goes to the daemon's own address only.
    """
    key = os.environ.get("OLLAMA_API_KEY") or None
    if args.host:
        return Client(Address.parse(args.host), key)
    if not _settings_matter(args):
        return Client(Address.parse(os.environ.get("OLLAMA_HOST", "")), key)
    from ollmlx.cli.configured import settings

    found = settings(args)
    keys = found.security.api_keys
    return Client(Address.parse(found.server.host), key or (keys[0] if keys else None))


def _settings_matter(args: argparse.Namespace) -> bool:
    from pathlib import Path

    from ollmlx.settings.files import find_file

    file = find_file(Path(args.config) if args.config else None, os.environ, Path.cwd())
    return file is not None or any(name.startswith("OLLMLX_") for name in os.environ)
