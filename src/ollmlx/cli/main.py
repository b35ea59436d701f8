"""The command `ollmlx`: finds the verb, imports its module and no other, and turns exceptions into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage or unusable settings, 130 interrupted. Answers go to standard output,
everything else to standard error. A verb is a module of this package with `add_arguments(parser)` and `run(args)`;
`run` returns an exit code, or a coroutine of one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from ollmlx.errors import ConfigError, OllmlxError

if TYPE_CHECKING:
    from types import ModuleType

UNUSABLE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended

VERBS = {
    "serve": "start the daemon in this terminal",
    "run": "answer a prompt, or chat",
    "pull": "bring a model onto this machine",
    "push": "upload a model to a hub",
    "create": "make a model from a Modelfile",
    "list": "list installed models",
    "ps": "list loaded models",
    "show": "describe a model",
    "stop": "unload a model",
    "rm": "remove models",
    "cp": "give a model a second name",
    "logs": "print the daemon's log",
    "bench": "measure a model on this machine",
    "doctor": "find what is wrong, and the command that fixes it",
    "config": "print and check the settings",
    "plugin": "list and make plugins",
    "version": "print the versions of client and daemon",
}
ALIASES = {"start": "serve", "ls": "list"}


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        code = _dispatch(list(argv))
        sys.stdout.flush()
    except OllmlxError as error:
        if "--debug" in argv:
            raise
        report(error)
        return UNUSABLE if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def report(error: OllmlxError) -> None:
    """One line for the failure, one for the next step, one for the runbook."""
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)
    if error.code:
        print(f"  more: ollmlx doctor --explain {error.code}", file=sys.stderr)


def verbs() -> dict[str, str]:
    """The verbs of this installation, each with its summary."""
    from importlib.util import find_spec

    return {verb: summary for verb, summary in VERBS.items() if find_spec(f"ollmlx.cli.{verb}") is not None}


def verb_parser(verb: str, defaults: argparse.Namespace | None = None) -> tuple[argparse.ArgumentParser, ModuleType]:
    """The parser of one verb, and the module that runs it."""
    from importlib import import_module

    module = import_module(f"ollmlx.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"ollmlx {verb}",
        description=getattr(module, "DESCRIPTION", None) or f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _add_global_options(parser)
    return parser, module


def _dispatch(argv: list[str]) -> int:
    top = argparse.ArgumentParser(
        prog="ollmlx", add_help=False, allow_abbrev=False, usage="ollmlx [OPTION]... VERB ..."
    )
    _add_global_options(top)
    top.add_argument("-h", "--help", action="store_true")
    top.add_argument("-v", "--version", action="store_true")
    before, verb, after = _split_at_verb(argv)
    options = top.parse_args(before)
    if options.version:
        from ollmlx import __version__

        print(f"ollmlx version {__version__}")
        return 0
    if verb == "help":
        verb, after = (after[0], ["--help"]) if after else (None, [])
    if options.help or verb is None:
        print(_help())
        return 0
    verb = ALIASES.get(verb, verb)
    if verb not in verbs():
        top.error(_unknown(verb))
    parser, module = verb_parser(verb)
    del options.help, options.version
    return _run(module, _parse(parser, _with_optional_values(module, after), options))


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    result = module.run(args)
    if hasattr(result, "__await__"):
        import asyncio

        result = asyncio.run(result)
    return int(result)


def _add_global_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("everywhere")
    hidden = argparse.SUPPRESS
    group.add_argument(
        "--config", metavar="FILE", default=hidden, help="settings file instead of the one that is found"
    )
    group.add_argument("--host", metavar="HOST:PORT", default=hidden, help="the daemon's address; also OLLAMA_HOST")
    group.add_argument("--debug", action="store_true", default=hidden, help="log each step; show tracebacks")


def _split_at_verb(argv: list[str]) -> tuple[list[str], str | None, list[str]]:
    index = 0
    while index < len(argv):
        if not argv[index].startswith("-"):
            return argv[:index], argv[index], argv[index + 1 :]
        index += 2 if argv[index] in ("--config", "--host") else 1
    return argv, None, []


def _parse(parser: argparse.ArgumentParser, argv: list[str], options: argparse.Namespace) -> argparse.Namespace:
    """Options may stand between and after positionals, as in `run MODEL --verbose PROMPT`."""
    for name in ("config", "host", "debug"):
        parser.set_defaults(**{name: getattr(options, name, False if name == "debug" else None)})
    if any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in parser._actions):
        return parser.parse_args(argv)
    return parser.parse_intermixed_args(argv)


def _with_optional_values(module: ModuleType, argv: list[str]) -> list[str]:
    """`--think` alone means `--think=true`: argparse would take the model's name for its value."""
    values: dict[str, str] = getattr(module, "OPTIONAL_VALUES", {})
    end = argv.index("--") if "--" in argv else len(argv)
    return [f"{word}={values[word]}" if word in values else word for word in argv[:end]] + argv[end:]


def _unknown(verb: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(verb, [*VERBS, *ALIASES], n=1)
    return f"unknown command {verb!r}" + (f"; did you mean {near[0]!r}?" if near else "; see ollmlx --help")


def _help() -> str:
    lines = [f"  {verb:<9} {summary}" for verb, summary in verbs().items()]
    return "\n".join(
        [
            "ollmlx: an Ollama-compatible model server for MLX",
            "",
            "usage: ollmlx [OPTION]... VERB ...",
            "",
            *lines,
            "",
            "options:",
            "  --config FILE       settings file instead of the one that is found",
            "  --host HOST:PORT    the daemon's address; also OLLAMA_HOST",
            "  --debug             log each step; show tracebacks",
            "  -v, --version       print the version",
            "  -h, --help          print this; `ollmlx VERB --help` describes a verb",
        ]
    )


if __name__ == "__main__":
    entry()
