"""`ollmlx plugin`: list the plugins with the reason why one is off, and create a new one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from ollmlx.cli.connection import settings
from ollmlx.cli.formatting import table
from ollmlx.cli.terminal import say, width
from ollmlx.errors import InvalidRequest
from ollmlx.plugin.discovery import LoadedPlugin
from ollmlx.plugin.loader import load_plugins

DESCRIPTION = """List and create plugins.

  ollmlx plugin list                      every plugin: version, origin, hooks, and the reason if it is off
  ollmlx plugin new NAME --kind KIND      write a distribution with a working plugin and its tests"""


def add_plugin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("list", "new"), nargs="?", default="list")
    parser.add_argument("name", metavar="NAME", nargs="?", help="new: the plugin's name")
    parser.add_argument("--kind", choices=("backend", "store", "routes", "checks"), help="new: what it adds")
    parser.add_argument("--into", metavar="FOLDER", default=".", help="new: the folder to write to (default: this one)")
    parser.add_argument("--json", action="store_true", help="list: print JSON")


def run_plugin(args: argparse.Namespace) -> int:
    return _new(args) if args.action == "new" else _list(args)


def _new(args: argparse.Namespace) -> int:
    from ollmlx.testing.scaffold import write_plugin  # imported when used: the test kit costs start-up time

    if args.name is None or args.kind is None:
        raise InvalidRequest("a new plugin needs a name and a kind", hint="ollmlx plugin new my-store --kind store")
    written = write_plugin(args.name, args.kind, Path(args.into))
    for path in written:
        say(str(path))
    say(f"\nnext: cd {written[0].parent} && pip install -e '.[dev]' && pytest")
    return 0


def _list(args: argparse.Namespace) -> int:
    found = settings(args)
    optional = found.plugins.model_copy(update={"required": ()})  # list a required plugin that is off, too
    plugins = load_plugins(found.model_copy(update={"plugins": optional})).loaded
    if args.json:
        say(json.dumps([plugin.as_json() for plugin in plugins], indent=2))
    else:
        say(listing(plugins, width(sys.stdout)))
    return 0


def listing(plugins: Sequence[LoadedPlugin], columns: int | None) -> str:
    """Return a table of all plugins and, below it, why some are off; lines have at most `columns` columns."""
    rows = [
        (
            plugin.name,
            plugin.version,
            plugin.origin.removesuffix(f" {plugin.version}"),
            ", ".join(hook.removeprefix("register_") for hook in plugin.hooks),
            "on" if plugin.enabled else "off",
        )
        for plugin in plugins
    ]
    reasons = [_reason(plugin, columns) for plugin in plugins if not plugin.enabled]
    return "\n".join([table(("NAME", "VERSION", "FROM", "REGISTERS", "STATE"), rows, columns), *reasons])


def _reason(plugin: LoadedPlugin, columns: int | None) -> str:
    reason = "; ".join(" ".join(part.split()) for part in (plugin.problem, plugin.hint) if part)
    text = f"{plugin.name} is off: {reason}{f' ({plugin.code})' if plugin.code else ''}"
    return "\n" + (text if columns is None else fill(text, max(columns, 20), subsequent_indent="  "))
