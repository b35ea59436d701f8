"""`ollmlx key`: API keys with names and limits, in the settings file of this machine."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ollmlx.cli.connection import settings
from ollmlx.cli.formatting import table
from ollmlx.cli.terminal import note, say, width
from ollmlx.errors import InvalidRequest
from ollmlx.keys import Usage, Used
from ollmlx.model.names import ModelName
from ollmlx.settings.edit import EditedFile
from ollmlx.settings.model import KeyName, KeySettings, Settings
from ollmlx.supervisor.process.state_folder import lock_owner

DESCRIPTION = """Give several people or programs keys of their own, with limits. docs/keys.md

  ollmlx key new NAME      make a key, print it once, and write its hash and its limits into the settings file
  ollmlx key list          print the keys and their limits
  ollmlx key usage         print the requests and the tokens of each key by day
  ollmlx key revoke NAME   remove a key

A running daemon takes changes over at once."""
LIMITS = {
    "requests_per_day": "requests in a day",
    "tokens_per_day": "tokens in a day, prompts and answers",
    "concurrent": "requests at the same time",
}
"""Numbers that limit a key, and what they count."""


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("new", "list", "usage", "revoke"), nargs="?", default="list")
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("--models", metavar="A,B", help="new: the models that it may use; * matches any text")
    parser.add_argument("--priority", choices=("high", "normal", "low"), help="new: the highest priority")
    for limit, counted in LIMITS.items():
        flag = f"--{limit.replace('_', '-')}"
        parser.add_argument(flag, dest=limit, metavar="N", type=int, help=f"new: at most N {counted}")
    parser.add_argument("--json", action="store_true", help="list, usage: print JSON")


def run_key(args: argparse.Namespace) -> int:
    found = settings(args)
    if args.action == "list":
        return _list(args, found)
    if args.action == "usage":
        return _usage(args, found)
    try:
        name = TypeAdapter(KeyName).validate_python(args.name)
    except ValidationError as error:
        raise InvalidRequest(
            "a key needs a name: a letter, then letters, digits and _, 32 at most",
            hint=f"ollmlx key {args.action} NAME",
        ) from error
    file = EditedFile(Path(args.config) if args.config else None, os.environ, Path.cwd())
    if args.action == "revoke":
        file.remove(("security", "keys", name))
        note(f"removed {name} from {file.path}")
    else:
        key = f"ollmlx-{secrets.token_urlsafe(32)}"
        file.add(("security", "keys", name), _values(args, key))
        note(f"wrote {name} into {file.path}; this is the only time that its key is shown:")
        say(key)
        if not found.security.has_keys:
            note("from now on every client needs a key, ollmlx on this machine, too: export OLLAMA_API_KEY=KEY")
    _tell_the_daemon(found)
    return 0


def _values(args: argparse.Namespace, key: str) -> dict[str, Any]:
    """Return what is written for a new key. Raises InvalidRequest for a limit that cannot be."""
    values: dict[str, Any] = {"sha256": hashlib.sha256(key.encode()).hexdigest()}
    if args.models:
        values["models"] = [name.strip() for name in args.models.split(",") if name.strip()]
        for name in values["models"]:
            ModelName.parse(name.replace("*", "x"))
    values |= {limit: getattr(args, limit) for limit in ("priority", *LIMITS) if getattr(args, limit) is not None}
    try:
        KeySettings.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InvalidRequest(f"{fault['loc'][0]}: {fault['msg']}") from error
    return values


def _tell_the_daemon(found: Settings) -> None:
    pid = lock_owner(found.state_folder)
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
        note("the running daemon reads its settings again")


def _list(args: argparse.Namespace, found: Settings) -> int:
    keys = found.security.keys
    if args.json:
        say(json.dumps({name: key.model_dump(mode="json", exclude={"key"}) for name, key in keys.items()}, indent=2))
        return 0
    rows = [
        (
            name,
            key.digest.hex()[:8],
            ", ".join(key.models) or "all",
            key.priority,
            *(str(limit or "-") for limit in (key.requests_per_day, key.tokens_per_day, key.concurrent)),
        )
        for name, key in keys.items()
    ]
    say(table(("NAME", "HASH", "MODELS", "PRIORITY", "REQUESTS/DAY", "TOKENS/DAY", "AT ONCE"), rows, width(sys.stdout)))
    return 0


def _usage(args: argparse.Namespace, found: Settings) -> int:
    usage = Usage(found.state_folder)
    usage.load()
    wanted = {
        day: {name: used for name, used in keys.items() if args.name in (None, name)}
        for day, keys in usage.days().items()
    }
    if args.json:
        say(json.dumps({day: {name: used._asdict() for name, used in keys.items()} for day, keys in wanted.items()}))
        return 0
    rows = [_row(day, name, used) for day, keys in wanted.items() for name, used in sorted(keys.items())]
    say(table(("DAY", "NAME", "REQUESTS", "TOKENS"), rows, width(sys.stdout)))
    return 0


def _row(day: str, name: str, used: Used) -> tuple[str, ...]:
    return day, name, str(used.requests), str(used.tokens)
