"""The command `ollmlx`: finds the verb, imports its module and no other, and turns errors into exit codes.

Exit codes: 0 success, 1 failure, 2 wrong usage or unusable settings, 130 interrupted. Answers go to standard output,
everything else to standard error. A verb consists of two functions in a module of this package:
`add_VERB_arguments(parser)`, and `run_VERB(args)`, which returns an exit code or a coroutine of one.
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ollmlx.cli.terminal import is_terminal, report
from ollmlx.cli.verbs import ALIASES, VERBS, add_global_options, verb_parser
from ollmlx.errors import ConfigError, InvalidRequest, NotFound, OllmlxError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN_PIPE = 141
"""The exit code that a shell reports for a program that SIGPIPE ended."""

GC_THRESHOLD = 50_000
"""Objects more, after which garbage is collected: with Python's own number, a sixth of a start was spent on that."""

EXAMINED = ("run", "serve")
"""The verbs whose failures end with the doctor's first finding."""

RunVerb = Callable[[argparse.Namespace], int | Coroutine[Any, Any, int]]


EXAMINER = "ollmlx.cli.doctor"


def entry() -> NoReturn:
    """Run the command line of this process."""
    gc.set_threshold(GC_THRESHOLD)
    _prepare_streams()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what can follow
        from ollmlx.cli.completion import complete

        complete()
    code = main(sys.argv[1:])
    if EXAMINER in sys.modules:  # its threads may hang in the system, and the end of Python takes up to a second
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _prepare_streams() -> None:
    """Open the null device for standard streams that are closed; escape what the encoding of a stream lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            mode = "r" if name == "stdin" else "w"
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str]) -> int:
    """Run one command line and return the exit code."""
    _require_home()
    try:
        code = _dispatch(list(argv))
        sys.stdout.flush()
    except OllmlxError as error:
        if "--debug" in argv:
            raise
        report(error)
        _show_cause(argv, error)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _drop_output()
        report(StorageError(f"cannot write the output: {error.strerror}", code="STO004"))
        return 1
    return code


def _require_home() -> None:
    """Give a user whom the system does not know the home that containers give them."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _drop_output() -> None:
    """Throw away what standard output cannot take. Python would report it once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_cause(argv: Sequence[str], error: OllmlxError) -> None:
    """On a terminal, end the failure of `run` and `serve` with the first finding of the doctor.

    Errors about what was typed or is set say everything themselves.
    """
    _, verb, _ = _split_at_verb(list(argv))
    if ALIASES.get(verb or "", verb) not in EXAMINED or not is_terminal(sys.stderr):
        return
    if isinstance(error, ConfigError | InvalidRequest | NotFound):
        return
    from ollmlx.cli.doctor import show_first_finding  # imported when used: it costs start-up time

    words = [*argv, ""]
    show_first_finding(next((after for word, after in pairwise(words) if word == "--config"), None))


def parse(verb: str, argv: list[str], options: argparse.Namespace | None = None) -> tuple[argparse.Namespace, RunVerb]:
    """Parse the arguments of a verb. `options`: the global options before the verb. Returns the function to call, too.

    Options may stand between and after positionals, as in `run MODEL --verbose PROMPT`.
    """
    parser, module = verb_parser(verb)
    for name in ("config", "host", "debug"):
        parser.set_defaults(**{name: getattr(options, name, False if name == "debug" else None)})
    if getattr(module, "PASSES_ON", False) and "--" in argv:
        at = argv.index("--")
        argv, passed_on = argv[:at], argv[at + 1 :]
        parser.set_defaults(passed_on=passed_on)
    args = parser.parse_intermixed_args(_with_optional_values(module, argv))
    return args, getattr(module, f"run_{verb}")


def _dispatch(argv: list[str]) -> int:
    usage = "ollmlx [OPTION]... VERB ..."
    top = argparse.ArgumentParser(prog="ollmlx", add_help=False, allow_abbrev=False, usage=usage)
    add_global_options(top)
    top.add_argument("-h", "--help", action="store_true")
    top.add_argument("-v", "--version", action="store_true")
    before, verb, after = _split_at_verb(argv)
    options = top.parse_args(before)
    if options.version:
        from ollmlx.cli.build import version_text

        print(version_text())
        return 0
    if verb == "help":
        verb, after = (after[0], ["--help"]) if after else (None, [])
    if verb is None and not options.help and after == [] and sys.stdin.isatty() and sys.stdout.isatty():
        from ollmlx.cli.menu import choose

        chosen = choose()
        if chosen is None:
            return 0
        verb, after = chosen if chosen[0] != "help" else (None, [])
    if options.help or verb is None:
        print(_help())
        return 0
    verb = ALIASES.get(verb, verb)
    if verb not in VERBS:
        top.error(_unknown(verb))
    args, run = parse(verb, after, options)
    result = run(args)
    if isinstance(result, int):
        return result
    import asyncio  # imported when used: it costs start-up time

    return asyncio.run(result)


def _split_at_verb(argv: list[str]) -> tuple[list[str], str | None, list[str]]:
    index = 0
    while index < len(argv):
        if not argv[index].startswith("-"):
            return argv[:index], argv[index], argv[index + 1 :]
        index += 2 if argv[index] in ("--config", "--host") else 1
    return argv, None, []


def _with_optional_values(module: ModuleType, argv: list[str]) -> list[str]:
    """Turn `--think` into `--think=true`: argparse would take the model's name for its value."""
    values: dict[str, str] = getattr(module, "OPTIONAL_VALUES", {})
    end = argv.index("--") if "--" in argv else len(argv)
    return [f"{word}={values[word]}" if word in values else word for word in argv[:end]] + argv[end:]


def _unknown(verb: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(verb, [*VERBS, *ALIASES], n=1)
    return f"unknown command {verb!r}" + (f"; did you mean {near[0]!r}?" if near else "; see ollmlx --help")


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10} {summary}" for verb, (_, summary) in VERBS.items())
    return f"""ollmlx: an Ollama-compatible model server for MLX

usage: ollmlx [OPTION]... VERB ...

{verbs}

options:
  --config FILE       use this settings file instead of the one that is found
  --host HOST:PORT    the daemon's address; also OLLAMA_HOST
  --debug             log every step; show tracebacks
  -v, --version       print the version
  -h, --help          print this help; `ollmlx VERB --help` describes a verb"""


if __name__ == "__main__":
    entry()
