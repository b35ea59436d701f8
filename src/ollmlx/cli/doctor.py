"""`ollmlx doctor`: names what is wrong and the command that fixes it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx.errors import InvalidRequest, OllmlxError

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext
    from ollmlx.doctor.report import Report

DESCRIPTION = """Examine this machine, read-only, and say what is wrong with the command that fixes it.

  ollmlx doctor                  everything
  ollmlx doctor storage          one group: config, machine, plugins, storage, server, runners, network
  ollmlx doctor ENV002           the checks for one code
  ollmlx doctor --model NAME     ask the model: does it keep its promises on this machine? Two minutes at the most
  ollmlx doctor --deep           read every model's files and compare their sha256
  ollmlx doctor --online         ask the hub and the hosts of clusters, too; without it nothing leaves this machine
  ollmlx doctor --bundle FILE    write what a person who helps needs to know, without secrets and prompts
  ollmlx doctor --explain CODE   what a code means; needs no daemon, no settings, no network

Exit status: 0 nothing is wrong, or only warnings; 1 an error; 2 wrong usage."""

USAGE = 2
DEEP_SECONDS = 600.0
ONLINE_SECONDS = 12.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="GROUP|CODE", nargs="?", help="only this group, or the checks for this code")
    parser.add_argument("--model", metavar="NAME", help="try what this model promises, through the daemon")
    parser.add_argument("--explain", metavar="CODE", help="print the runbook of a code")
    parser.add_argument("--list", action="store_true", help="list every code")
    parser.add_argument("--deep", action="store_true", help="compare every model file's sha256 with its manifest")
    parser.add_argument("--online", action="store_true", help="ask the hub, and the hosts of declared clusters")
    parser.add_argument("--bundle", metavar="FILE.zip", help="write a report to send to somebody who helps")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    silent = logging.NullHandler()  # what modules would log is found by checks, and told once
    logging.getLogger().addHandler(silent)
    try:
        if args.explain:
            return _explain(args)
        if args.list:
            return _list(args)
        if args.model:
            return _try_model(args)
        return _bundle(args) if args.bundle else _examine(args)
    except InvalidRequest as error:  # a group, code or model name that is none
        from ollmlx.cli.main import report

        report(error)
        return USAGE
    finally:
        logging.getLogger().removeHandler(silent)


def _explain(args: argparse.Namespace) -> int:
    from ollmlx.doctor import runbooks
    from ollmlx.doctor.selection import runbook_folders

    try:
        print(runbooks.page(args.explain))
    except InvalidRequest:
        print(runbooks.page(args.explain, runbook_folders(_world(args))))
    return 0


def _list(args: argparse.Namespace) -> int:
    from ollmlx.doctor import runbooks
    from ollmlx.doctor.selection import runbook_folders

    entries = [runbooks.runbook(code, text) for code, text in runbooks.pages(runbook_folders(_world(args))).items()]
    entries.sort(key=lambda entry: entry.code)
    if args.json:
        print(json.dumps([entry._asdict() for entry in entries], indent=2))
    else:
        print("\n".join(f"{one.code}  {one.severity:<7}  {one.owner:<12}  {one.title}" for one in entries))
    return 0


def _examine(args: argparse.Namespace) -> int:
    from ollmlx.doctor.run import PATIENCE, examine
    from ollmlx.doctor.selection import chosen

    world = _world(args)
    seconds = ONLINE_SECONDS if args.online else PATIENCE
    report = examine(chosen(world, args.what), world, patience=DEEP_SECONDS if args.deep else seconds)
    return _print(report, args)


def _try_model(args: argparse.Namespace) -> int:
    import asyncio

    from ollmlx.cli.background import ensure_daemon
    from ollmlx.cli.connection import connect
    from ollmlx.cli.terminal import note
    from ollmlx.doctor.daemon import Daemon
    from ollmlx.doctor.selftest.session import self_test
    from ollmlx.doctor.selftest.subject import Refused, Subject
    from ollmlx.model.names import ModelName

    client = connect(args)
    name = ModelName.parse(args.model)
    ensure_daemon(client, args)
    subject = Subject(Daemon(client.address, client.key), name)

    def told(what: str, holds: bool, seconds: float) -> None:
        note(f"{'✓' if holds else '✗'} {what}  {seconds:.1f} s")

    try:
        return _print(asyncio.run(self_test(subject, told)), args)
    except Refused as refusal:
        missing = refusal.code == "MDL002"
        raise OllmlxError(
            refusal.message, code=refusal.code, hint=f"ollmlx pull {name.short}" if missing else "ollmlx logs"
        ) from refusal


def _bundle(args: argparse.Namespace) -> int:
    from ollmlx.cli.terminal import note
    from ollmlx.doctor.bundle import write
    from ollmlx.doctor.run import PATIENCE, examine
    from ollmlx.doctor.selection import every

    world = _world(args)
    report = examine(every(world), world, patience=DEEP_SECONDS if args.deep else PATIENCE)
    file = Path(args.bundle)
    names = write(file, world, report)
    note(f"wrote {file}: {', '.join(names)}. It holds no prompts; secrets are masked. Read it before you send it.")
    return _print(report, args)


def _print(report: Report, args: argparse.Namespace) -> int:
    from ollmlx.cli.terminal import width
    from ollmlx.doctor.render import text

    print(json.dumps(report.as_json(), indent=2) if args.json else text(report, width(sys.stdout)))
    return 1 if report.failed else 0


def _world(args: argparse.Namespace) -> CheckContext:
    from ollmlx.cli.configured import overrides
    from ollmlx.doctor.context import look

    config = Path(args.config) if args.config else None
    return look(config, overrides(args), deep=args.deep, online=args.online)
