"""`ollmlx config`: print the settings with their origins, check them, write a settings file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ollmlx import __version__
from ollmlx.cli.connection import load
from ollmlx.cli.terminal import grey, report
from ollmlx.errors import Conflict, NotFound, OllmlxError, StorageError
from ollmlx.plugin.loader import is_hidden, load_plugins
from ollmlx.settings.faults import Fault
from ollmlx.settings.files import FILE_NAME
from ollmlx.settings.keys import dotted
from ollmlx.settings.load import InvalidSettings
from ollmlx.settings.report import Effective, effective, reference, toml_value
from ollmlx.settings.trust import TrustedFiles, refusal
from ollmlx.text.controls import escape_line, escape_text

DESCRIPTION = """Print and check the settings.

  ollmlx config show          print every value and its origin
  ollmlx config check         print every fault of the settings
  ollmlx config init [FILE]   write a settings file with every key, its default and its description
  ollmlx config trust [FILE]  let the settings file of a folder set everything, until it changes"""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("show", "check", "init", "trust"), nargs="?", default="show")
    parser.add_argument("file", metavar="FILE", nargs="?", help="the file of init and trust (default: ollmlx.toml)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--changed", action="store_true", help="show: leave out values that are defaults")
    parser.add_argument("--list", action="store_true", help="trust: print the files that are trusted")
    parser.add_argument("--revoke", action="store_true", help="trust: trust the file no longer")
    parser.add_argument("--force", action="store_true", help="init: replace a file that exists")


def run_config(args: argparse.Namespace) -> int:
    if args.action == "init":
        return _init(Path(args.file or "ollmlx.toml"), force=args.force)
    if args.action == "trust":
        return _trust(args)
    return _check(args) if args.action == "check" else _show(args)


def _show(args: argparse.Namespace) -> int:
    loaded = load(args)
    own = loaded.settings.plugins.model_extra  # plugins mark the secret keys of their tables
    plugins = load_plugins(loaded.settings, strict=False) if own else None
    values = effective(loaded, lambda path: is_hidden(plugins, path))
    if args.changed:
        values = [value for value in values if value.origin.kind != "default"]
    if args.json:
        print(json.dumps([value.as_json() for value in values], indent=2))
    else:
        print("\n".join(_lines(values)))
    return 0


def _lines(values: list[Effective]) -> list[str]:
    lines: list[str] = []
    section = ""
    for value in values:
        if value.path[0] != section:
            section = value.path[0]
            lines += ["", f"[{section}]"]
        text = escape_text(f"{dotted(value.path[1:])} = {toml_value(value.value)}")
        origin = escape_line("; overrides ".join(map(str, [value.origin, *(weaker for _, weaker in value.overrides)])))
        lines.append(f"{text:<44}  {grey(f'# {origin}', sys.stdout)}")
    return lines[1:]


def _check(args: argparse.Namespace) -> int:
    problems: list[dict[str, str]] = []
    warnings: list[dict[str, str]] = []
    try:
        loaded = load(args)
        warnings = [_as_json(notice) for notice in loaded.warnings]
        load_plugins(loaded.settings)
    except OllmlxError as error:
        if isinstance(error, InvalidSettings):
            problems = [_as_json(fault) for fault in error.faults]
            warnings = [_as_json(notice) for notice in error.sound.warnings]
        else:
            problems = [{"code": error.code or "", "message": error.message, "source": ""}]
        if not args.json:
            report(error)
    if args.json:
        print(json.dumps({"ok": not problems, "problems": problems, "warnings": warnings}, indent=2))
        return 1 if problems else 0
    for warning in warnings:
        print(f"warning: {warning['message']}", file=sys.stderr)
    if not problems:
        files = ", ".join(map(str, loaded.files))
        print(f"the settings are usable ({files or 'no settings file; every value is a default or a variable'})")
    return 1 if problems else 0


def _as_json(fault: Fault) -> dict[str, str]:
    return {"code": fault.code, "message": str(fault), "source": str(fault.origin)}


def _trust(args: argparse.Namespace) -> int:
    known, file = TrustedFiles(os.environ), Path(args.file or FILE_NAME)
    if args.list:
        for path in sorted(known.all()):
            print(path)
        return 0
    try:
        if args.revoke:
            if not known.remove(file):
                raise NotFound(f"{file} is not trusted", hint="ollmlx config trust --list")
            print(f"{file.resolve()} is not trusted any more")
            return 0
        if (reason := refusal(file)) is not None:
            raise Conflict(f"{file} cannot be trusted: {reason}", code="CFG013")
        known.add(file)
    except OSError as error:
        raise StorageError(f"cannot trust {file}: {error.strerror}", code="CFG001") from error
    print(f"{file.resolve()} is trusted until it changes")
    return 0


def _init(file: Path, *, force: bool) -> int:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as target:
            target.write(f"# Written by ollmlx {__version__}\n{reference(commented=True)}")
        file.chmod(0o600)  # it may hold API keys later
    except FileExistsError:
        raise Conflict(f"{file} exists", hint=f"ollmlx config init --force {file}") from None
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", code="CFG001") from error
    print(f"wrote {file}: it has every key, behind a #")
    return 0
