"""`ollmlx doctor`: names what is wrong and the command that fixes it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollmlx.doctor.world import World

DESCRIPTION = """Examine this machine, read-only, and say what is wrong with the command that fixes it.

  ollmlx doctor                  everything
  ollmlx doctor storage          one group: config, machine, plugins, storage, server, runners
  ollmlx doctor --deep           read every model's files and compare their sha256
  ollmlx doctor --explain CODE   what a code means; needs no daemon, no settings, no network

Exit status: 0 nothing is wrong, or only warnings; 1 an error; 2 wrong usage."""

DEEP_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="GROUP|CODE", nargs="?", help="only this group, or the checks for this code")
    parser.add_argument("--explain", metavar="CODE", help="print the runbook of a code")
    parser.add_argument("--list", action="store_true", help="list every code")
    parser.add_argument("--deep", action="store_true", help="compare every model file's sha256 with its manifest")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.explain:
        return _explain(args)
    if args.list:
        return _list(args)
    return _examine(args)


def _explain(args: argparse.Namespace) -> int:
    from ollmlx.doctor import runbooks
    from ollmlx.doctor.selection import runbook_folders
    from ollmlx.errors import InvalidRequest

    try:
        print(runbooks.page(args.explain))
    except InvalidRequest:
        print(runbooks.page(args.explain, runbook_folders(_world(args))))
    return 0


def _list(args: argparse.Namespace) -> int:
    import json

    from ollmlx.doctor import runbooks
    from ollmlx.doctor.selection import runbook_folders

    titles = {
        code: runbooks.title(text) for code, text in sorted(runbooks.pages(runbook_folders(_world(args))).items())
    }
    if args.json:
        print(json.dumps(titles, indent=2))
    else:
        print("\n".join(f"{code}  {title}" for code, title in titles.items()))
    return 0


def _examine(args: argparse.Namespace) -> int:
    import json
    import sys

    from ollmlx.cli.terminal import width
    from ollmlx.doctor.render import text
    from ollmlx.doctor.run import PATIENCE, examine
    from ollmlx.doctor.selection import chosen

    world = _world(args)
    report = examine(chosen(world, args.what), world, patience=DEEP_SECONDS if args.deep else PATIENCE)
    print(json.dumps(report.as_json(), indent=2) if args.json else text(report, width(sys.stdout)))
    return 1 if report.failed else 0


def _world(args: argparse.Namespace) -> World:
    from ollmlx.cli.configured import overrides
    from ollmlx.doctor.world import look

    return look(Path(args.config) if args.config else None, overrides(args), deep=args.deep)
