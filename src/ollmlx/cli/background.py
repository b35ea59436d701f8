"""The daemon as a background process: `ollmlx run` starts one when none answers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from ollmlx.cli.client import Client, NotRunning
from ollmlx.cli.terminal import note
from ollmlx.errors import OllmlxError, StorageError

PATIENCE = 60  # seconds for a daemon to answer; it needs one or two
POLL = 0.05
LAST_WORDS = 15  # lines of its output that explain why it did not start
OUTPUT = "serve.out"  # in the state folder: what the daemon writes before its own log is open


def ensure_daemon(client: Client, args: argparse.Namespace) -> None:
    """Start a daemon, detached from this terminal, unless one answers. Raises OllmlxError with its last words."""
    if client.alive():
        return
    if not client.address.is_local:
        raise NotRunning(
            f"no daemon answers at {client.address}", hint="check OLLAMA_HOST and that the daemon runs there"
        )
    output = _output_file(args)
    note(f"Starting the ollmlx daemon at {client.address} ...")
    process = _spawn(args, output)
    deadline = time.monotonic() + PATIENCE
    while not client.alive():
        if process.poll() is not None and not client.alive():
            raise _failed(f"the daemon ended at once (exit code {process.returncode})", output)
        if time.monotonic() > deadline:
            raise _failed(f"the daemon does not answer after {PATIENCE} seconds", output)
        time.sleep(POLL)


def _output_file(args: argparse.Namespace) -> Path:
    from ollmlx.cli.configured import settings

    folder = settings(args).state_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        output = folder / OUTPUT
        output.touch(mode=0o600)
    except OSError as error:
        raise StorageError(
            f"cannot use the state folder {folder}: {error.strerror}", code="STO009", hint="ollmlx doctor storage"
        ) from error
    return output


def _spawn(args: argparse.Namespace, output: Path) -> subprocess.Popen[bytes]:
    """Its own session, so that neither Ctrl-C nor the terminal's end reaches it; nothing of ours stays open in it."""
    options = [
        *(["--config", args.config] if args.config else []),
        *(["--host", args.host] if args.host else []),
        *(["--debug"] if args.debug else []),
    ]
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "ollmlx", "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def _failed(what: str, output: Path) -> OllmlxError:
    lines = output.read_text("utf-8", "replace").strip().splitlines()[-LAST_WORDS:]
    said = "".join(f"\n  | {line}" for line in lines)
    return OllmlxError(f"{what}; its last words:{said}" if lines else what, hint="ollmlx serve")
