"""`ollmlx cache`: list and remove the saved prompt caches in the state folder of this machine."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from ollmlx.cli.connection import settings
from ollmlx.cli.formatting import table
from ollmlx.cli.terminal import note, say
from ollmlx.errors import NotFound
from ollmlx.model.names import ModelName
from ollmlx.storekit.saved_caches import SavedCaches
from ollmlx.text.quantities import format_size

DESCRIPTION = """List and remove saved prompt caches. They hold what was asked and answered.

  ollmlx cache list             print the models with saved caches, their sizes and their last use
  ollmlx cache clear [MODEL...] remove the caches of these models, or of all models"""


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("list", "clear"), nargs="?", default="list")
    parser.add_argument("models", metavar="MODEL", nargs="*", help="clear: the models (default: all)")
    parser.add_argument("--json", action="store_true", help="list: print JSON")


def run_cache(args: argparse.Namespace) -> int:
    caches = SavedCaches(settings(args).caches_folder)
    if args.action == "clear":
        names = [ModelName.parse(name) for name in args.models] or None
        freed = caches.remove(names)
        if names and not freed:
            raise NotFound(f"no prompt caches are saved for {', '.join(name.short for name in names)}")
        note(f"removed {format_size(freed)}")
        return 0
    found = [one for one in caches.list() if one.files]
    if args.json:
        say(json.dumps([{"model": one.model, "files": one.files, "size": one.size} for one in found], indent=2))
        return 0
    when = [datetime.fromtimestamp(one.used, UTC).astimezone().strftime("%Y-%m-%d %H:%M") for one in found]
    rows = [(one.model, str(one.files), format_size(one.size), at) for one, at in zip(found, when, strict=True)]
    say(table(("MODEL", "CACHES", "SIZE", "LAST USED"), rows))
    return 0
