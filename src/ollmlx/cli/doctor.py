"""`ollmlx doctor`: names problems and the commands that fix them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path

from ollmlx.cli.connection import overrides
from ollmlx.cli.terminal import is_terminal, note, output_kept, report, say, width
from ollmlx.doctor import bundle, runbooks
from ollmlx.doctor.context import CheckContext, build_context
from ollmlx.doctor.machine import seconds_since_start
from ollmlx.doctor.mend import Mender
from ollmlx.doctor.report import Report, finding_lines
from ollmlx.doctor.run import PATIENCE, examine_here, runbook_folders, select_checks
from ollmlx.errors import InvalidRequest, OllmlxError
from ollmlx.errors.findings import Finding, Severity

DESCRIPTION = """Examine this machine and report each problem with the command that fixes it. Only --fix changes things.

  ollmlx doctor                  run every check
  ollmlx doctor storage          run one group: config, machine, plugins, storage, server, runners, network
  ollmlx doctor ENV007           run the checks for one code
  ollmlx doctor --model NAME     test whether a model answers correctly on this machine; two minutes at most
  ollmlx doctor --agent NAME     let a coding agent do a small task with --model, offline; half an hour at most
  ollmlx doctor --fix            ask for each command that loses nothing and can be undone, run it, examine again
  ollmlx doctor --fix --yes      run without asking what cannot lose anything; copies are kept beside changed files
  ollmlx doctor --deep           also read every model's files and compare their sha256
  ollmlx doctor --online         also ask the hub and the hosts of clusters; otherwise nothing leaves this machine
  ollmlx doctor --bundle FILE    write a report to send to a person who helps, without secrets and prompts
  ollmlx doctor --explain CODE   explain a code; needs no daemon, no settings and no network

Exit status: 0 no problems, or only warnings; 1 an error; 2 wrong usage."""

PROGRESS_SECONDS = 1.0
DEEP_SECONDS = 600.0
ONLINE_SECONDS = 12.0


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("what", metavar="GROUP|CODE", nargs="?", help="run only this group, or the checks for a code")
    parser.add_argument("--model", metavar="NAME", help="test a model through the daemon")
    parser.add_argument("--agent", metavar="NAME", help="let a coding agent do a small task with a model")
    parser.add_argument("--explain", metavar="CODE", help="print the runbook of a code")
    parser.add_argument("--list", action="store_true", help="list every code")
    parser.add_argument("--fix", action="store_true", help="ask, then run the commands that can be undone")
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask; only what cannot lose anything")
    parser.add_argument("--deep", action="store_true", help="take time: compare every model file's sha256")
    parser.add_argument("--online", action="store_true", help="ask the hub, and the hosts of declared clusters")
    parser.add_argument("--bundle", metavar="FILE.zip", help="write a report to send to a person who helps")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_doctor(args: argparse.Namespace) -> int:
    silent = logging.NullHandler()  # checks report what modules would log
    logging.getLogger().addHandler(silent)
    try:
        _check_usage(args)
        if args.explain:
            return _explain(args)
        if args.list:
            return _list(args)
        if args.agent or args.model:
            return _try(args)
        return _fix(args) if args.fix else _examine(args)
    except InvalidRequest as error:  # an unknown group or code, or a malformed model name
        report(error)
        return 2
    finally:
        logging.getLogger().removeHandler(silent)


def _try(args: argparse.Namespace) -> int:
    from ollmlx.cli.trials import try_agent_with_model, try_model  # imported when used: it costs start-up time

    return _print(try_agent_with_model(args) if args.agent else try_model(args), args)


def _check_usage(args: argparse.Namespace) -> None:
    """Raise InvalidRequest for options that exclude each other."""
    other = next((name for name in ("explain", "list", "agent", "model", "bundle") if getattr(args, name)), None)
    if args.fix and other:
        raise InvalidRequest(f"--fix and --{other} exclude each other")
    if args.yes and not args.fix:
        raise InvalidRequest("--yes is an answer to the questions of --fix", hint="ollmlx doctor --fix --yes")
    if args.fix and not args.yes and not is_terminal(sys.stdin):
        hint = "ollmlx doctor --fix --yes does what cannot lose anything"
        raise InvalidRequest("--fix asks questions, and standard input is no terminal", hint=hint)


def _explain(args: argparse.Namespace) -> int:
    try:
        say(runbooks.page(args.explain))
    except InvalidRequest:  # perhaps the code of a plugin
        say(runbooks.page(args.explain, _runbook_folders(args)))
    return 0


def _runbook_folders(args: argparse.Namespace) -> list[Traversable]:
    with output_kept():
        return runbook_folders(_context(args))


def _list(args: argparse.Namespace) -> int:
    pages = runbooks.pages(_runbook_folders(args))
    listed = sorted(runbooks.runbook(code, text) for code, text in pages.items())
    if args.json:
        say(json.dumps([one._asdict() for one in listed], indent=2))
    else:
        say("\n".join(f"{one.code}  {one.severity:<7}  {one.owner:<12}  {one.title}" for one in listed))
    return 0


def _examine(args: argparse.Namespace) -> int:
    """Run the checks, all of them for a bundle, and print their report."""
    context, done = _examined(args, seconds_since_start())
    if args.bundle and context is None:
        _print(done, args)
        raise OllmlxError("no bundle was written: the settings could not be read in time")
    if args.bundle and context is not None:
        names = ", ".join(bundle.write(Path(args.bundle), context, done))
        note(f"wrote {args.bundle}: {names}. Prompts are left out and secrets are masked. Read it before you send it.")
    return _print(done, args)


def report_of(args: argparse.Namespace) -> Report:
    """Examine the machine with the global options of a command line."""
    with output_kept(), _progress_after(PROGRESS_SECONDS):
        build = partial(build_context, Path(args.config) if args.config else None, overrides(args))
        return examine_here(build, patience=PATIENCE)[1]


def _examined(args: argparse.Namespace, spent: float = 0.0) -> tuple[CheckContext | None, Report]:
    """Examine the machine in the time that is left. `spent`: the seconds that the start of this program took."""
    patience = DEEP_SECONDS if args.deep else ONLINE_SECONDS if args.online else PATIENCE
    select = partial(select_checks, selection=None if args.bundle else args.what)
    with output_kept(), _progress_after(PROGRESS_SECONDS):
        return examine_here(partial(_context, args), select, patience=patience - spent)


def _fix(args: argparse.Namespace) -> int:
    """Mend what is safe, print the report of what is left, and tell what to type in the shell."""
    mender = Mender(lambda: _examined(args)[1], _unasked if args.yes else _ask, note, os.environ)
    code = _print(mender.mend(), args)
    if mender.typed:
        note("Type this in your shell, too: no other program can set its variables.")
        note("\n".join(f"  {command}" for command in mender.typed))
    return 1 if code or any(mender.typed.values()) else 0


def _unasked(finding: Finding) -> bool:
    """Return True if nothing can be lost, and show what will be run."""
    if any(command.asks for command in finding.safe):
        return False
    _show_safe(finding)
    return True


def _ask(finding: Finding) -> bool:
    _show_safe(finding)
    print("Run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show_safe(finding: Finding) -> None:
    shown = finding.model_copy(update={"commands": finding.safe, "instead": ()})
    note("\n".join(finding_lines(shown, width(sys.stderr))))


def show_first_finding(config: str | None) -> None:
    """Examine the machine and print the first error that is found, with its commands; nothing if there is none."""
    with output_kept(), _progress_after(0.0):
        _, done = examine_here(partial(build_context, Path(config) if config else None))
    first = next((finding for finding in done.findings if finding.severity is Severity.ERROR), None)
    if first is not None:
        note("ollmlx doctor finds:\n" + "\n".join(finding_lines(first, width(sys.stderr), done.followers(first))))


@contextmanager
def _progress_after(seconds: float) -> Iterator[None]:
    """On a terminal, say after some seconds that the examination goes on."""
    timer = threading.Timer(seconds, note, ("Examining this machine ...",))
    timer.daemon = True
    if is_terminal(sys.stderr):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print(done: Report, args: argparse.Namespace) -> int:
    say(json.dumps(done.as_json(), indent=2) if args.json else done.as_text(width(sys.stdout)))
    return 1 if done.failed else 0


def _context(args: argparse.Namespace) -> CheckContext:
    config = Path(args.config) if args.config else None
    deep = args.deep or args.list or bool(args.explain)  # the pages of every plugin are needed, however slow it loads
    return build_context(config, overrides(args), deep=deep, online=args.online)
