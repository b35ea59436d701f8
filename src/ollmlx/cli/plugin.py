"""`ollmlx plugin`: which plugins there are, what they bring, and why one is off."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollmlx.plugins import LoadedPlugin

DESCRIPTION = """List the plugins, the ones that come with ollmlx included.

  ollmlx plugin list    name, version, where from, hooks, and why one is off"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list",), nargs="?", default="list")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.configured import overrides
    from ollmlx.plugins import load_plugins
    from ollmlx.settings_sources import load_settings

    settings = load_settings(Path(args.config) if args.config else None, overrides(args)).settings
    optional = settings.plugins.model_copy(update={"required": ()})
    loaded = load_plugins(settings.model_copy(update={"plugins": optional})).loaded
    if args.json:
        print(json.dumps([_fields(plugin) for plugin in loaded], indent=2))
        return 0
    _print(loaded)
    return 0


def _print(loaded: list[LoadedPlugin]) -> None:
    from ollmlx.cli.table import table

    rows = [[plugin.name, plugin.origin, "on" if plugin.enabled else "off", _brings(plugin)] for plugin in loaded]
    print(table(["NAME", "FROM", "STATE", "BRINGS"], rows))
    for plugin in loaded:
        if plugin.problem is not None:
            print(f"{plugin.name} is off: {plugin.problem}", file=sys.stderr)
            if plugin.hint:
                print(f"  hint: {plugin.hint}", file=sys.stderr)


def _brings(plugin: LoadedPlugin) -> str:
    return ", ".join(hook.removeprefix("register_") for hook in plugin.hooks)


def _fields(plugin: LoadedPlugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "origin": plugin.origin,
        "version": plugin.version,
        "enabled": plugin.enabled,
        "hooks": list(plugin.hooks),
        "problem": plugin.problem,
        "code": plugin.code,
        "hint": plugin.hint,
    }
