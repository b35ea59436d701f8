"""Finds the settings and the daemon of a command, and starts a daemon in the background if none answers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx.cli.client import Client
from ollmlx.cli.terminal import note
from ollmlx.errors import OllmlxError
from ollmlx.text.addresses import Address

if TYPE_CHECKING:
    import subprocess

    from ollmlx.settings import Settings
    from ollmlx.settings.load import LoadedSettings

PATIENCE = 60
"""Seconds for a new daemon to answer; it usually needs one or two."""


def settings(args: argparse.Namespace) -> Settings:
    """Return the settings for `--config` and the other flags. Raises ConfigError with every fault.

    Prints what a settings file that was found in this folder, and is not trusted, would have set.
    """
    loaded = load(args)
    for notice in loaded.warnings:
        if notice.code == "CFG013":
            note(f"warning: {notice}")
    return loaded.settings


def load(args: argparse.Namespace) -> LoadedSettings:
    """Return the settings with the source of each value. Raises ConfigError with every fault."""
    from ollmlx.settings.load import load_settings  # imported when used: it costs start-up time

    return load_settings(Path(args.config) if args.config else None, overrides(args))


def overrides(args: argparse.Namespace) -> dict[str, object]:
    """Return the flags that are settings, by dotted key."""
    found: dict[str, object] = {}
    if args.host:
        found["server.host"] = args.host
    if args.debug:
        found["logging.level"] = "debug"
    if getattr(args, "models_folder", None):
        found["storage.models"] = args.models_folder
    return found | getattr(args, "extra_settings", {})


def options_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the options with which another command finds the same settings and address."""
    named = (("--config", args.config), ("--host", args.host))
    return tuple(word for option, value in named if value for word in (option, value))


def connect(args: argparse.Namespace) -> Client:
    """Return a client for `--host`, or else for the address in the settings, OLLAMA_HOST included.

    The settings are read only if they can differ from their defaults, because reading them takes longer than the
    request. The API key in the settings is sent only to the address in the settings.
    """
    key = os.environ.get("OLLAMA_API_KEY") or None
    if args.host:
        return Client(Address.parse(args.host), key)
    if not _has_settings(args):
        return Client(Address.parse(os.environ.get("OLLAMA_HOST", "")), key)
    found = settings(args)
    return Client(Address.parse(found.server.host), key or found.security.own_key)


def _has_settings(args: argparse.Namespace) -> bool:
    from ollmlx.settings.files import find_file, working_folder

    file = find_file(Path(args.config) if args.config else None, os.environ, working_folder())
    return file is not None or any(name.startswith("OLLMLX_") for name in os.environ)


def ensure_daemon(client: Client, args: argparse.Namespace) -> None:
    """Start a daemon on this machine, in the background, unless one answers. Raises OllmlxError with its output."""
    if not client.address.is_local or client.alive():
        return
    from ollmlx.settings.files import STATE_FOLDER, private_file

    # What the daemon prints before its own log is open. `connect` has told what is ignored of the settings, which are
    # read only if they can name another folder: the daemon starts sooner by that time.
    state = load(args).settings.state_folder if _has_settings(args) else STATE_FOLDER.expanduser()
    output = private_file(state, "serve.out")
    note(f"Starting the ollmlx daemon at {client.address} (ollmlx serve --stop ends it) ...")
    process = _spawn(args, output)
    deadline = time.monotonic() + PATIENCE
    while not client.alive():
        if process.poll() is not None and not client.alive():
            raise _failed(f"the daemon exited at once (exit status {process.returncode})", output)
        if time.monotonic() > deadline:
            raise _failed(f"the daemon does not answer after {PATIENCE} seconds", output)
        time.sleep(0.01)


def _spawn(args: argparse.Namespace, output: Path) -> subprocess.Popen[bytes]:
    """Start `ollmlx serve` in a session of its own: neither Ctrl-C nor closing the terminal ends it."""
    import subprocess  # imported when used: it costs start-up time

    options = [*options_of(args), *(["--debug"] if args.debug else [])]
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ollmlx", "serve", *options],  # -P: no module from this folder
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def _failed(problem: str, output: Path) -> OllmlxError:
    lines = output.read_text("utf-8", "replace").strip().splitlines()[-15:]
    shown = "".join(f"\n  | {line}" for line in lines)
    return OllmlxError(f"{problem}; its output ends with:{shown}" if lines else problem, hint="ollmlx serve")
