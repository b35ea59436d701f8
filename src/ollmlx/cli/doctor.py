"""`ollmlx doctor`: names what is wrong and the command that fixes it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from ollmlx.contracts import Check
    from ollmlx.doctor.world import World

DESCRIPTION = """Examine this machine, read-only, and say what is wrong with the command that fixes it.

  ollmlx doctor                  everything
  ollmlx doctor storage          one group: config, plugins, machine, storage, server, runners
  ollmlx doctor --explain CODE   what a code means; needs no daemon, no settings, no network

Exit status: 0 nothing is wrong, or only warnings; 1 an error; 2 wrong usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="GROUP|CODE", nargs="?", help="only this group, or the checks for this code")
    parser.add_argument("--explain", metavar="CODE", help="print the runbook of a code")
    parser.add_argument("--list", action="store_true", help="list every code")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.explain:
        return _explain(args)
    if args.list:
        return _list(args)
    return _examine(args)


def _explain(args: argparse.Namespace) -> int:
    from ollmlx.doctor import runbooks
    from ollmlx.errors import InvalidRequest

    try:
        print(runbooks.page(args.explain))
    except InvalidRequest:
        print(runbooks.page(args.explain, _folders(_world(args))))
    return 0


def _list(args: argparse.Namespace) -> int:
    import json

    from ollmlx.doctor import runbooks

    titles = {code: runbooks.title(text) for code, text in sorted(runbooks.pages(_folders(_world(args))).items())}
    if args.json:
        print(json.dumps(titles, indent=2))
    else:
        print("\n".join(f"{code}  {title}" for code, title in titles.items()))
    return 0


def _examine(args: argparse.Namespace) -> int:
    from ollmlx.doctor.examine import examine, failed
    from ollmlx.doctor.render import as_json, text

    world = _world(args)
    examined = asyncio.run(examine(world, _chosen(world, args.what)))
    print(as_json(examined) if args.json else text(examined))
    return 1 if failed(examined) else 0


def _world(args: argparse.Namespace) -> World:
    from ollmlx.cli.configured import overrides
    from ollmlx.doctor.world import World
    from ollmlx.errors import ConfigError
    from ollmlx.plugins import load_plugins
    from ollmlx.settings import Settings
    from ollmlx.settings_sources import load_settings

    faults: ConfigError | None = None
    settings = Settings()
    try:
        settings = load_settings(Path(args.config) if args.config else None, overrides(args)).settings
    except ConfigError as error:
        faults = error
    return World(settings, faults, load_plugins(settings.model_copy(update={"plugins": _optional(settings)})))


def _optional(settings: object) -> object:
    """The plugin settings without `required`: the doctor looks at a broken plugin instead of stopping at it."""
    plugins = settings.plugins  # type: ignore[attr-defined]
    return plugins.model_copy(update={"required": ()})


def _chosen(world: World, what: str | None) -> Sequence[Check]:
    from ollmlx.doctor.checks import own_checks
    from ollmlx.errors import InvalidRequest

    brought = [found.check for found in world.plugins.registry.checks.values()] if world.plugins else []
    checks: list[Check] = [*own_checks(), *brought]
    if what is None:
        return checks
    chosen = [check for check in checks if check.group == what.lower() or what.upper() in check.codes]
    if not chosen:
        groups = ", ".join(dict.fromkeys(check.group for check in checks))
        raise InvalidRequest(f"no check has the group or code {what!r}", hint=f"groups: {groups}")
    return chosen


def _folders(world: World) -> list[Traversable]:
    found = world.plugins.registry.checks.values() if world.plugins else ()
    return [check.runbooks for check in found if check.runbooks is not None]
