"""`ollmlx completion`: completion of verbs, options and model names in bash, zsh and fish; and the whole parser."""

from __future__ import annotations

import argparse
from contextlib import suppress
from importlib import import_module
from typing import Any

from ollmlx.cli.connection import connect
from ollmlx.cli.models import installed_models
from ollmlx.cli.terminal import say
from ollmlx.cli.verbs import VERBS, add_global_options
from ollmlx.errors import OllmlxError

DESCRIPTION = """Print the lines that make a shell complete verbs, options and model names.

  bash   eval "$(ollmlx completion bash)"           in ~/.bashrc
  zsh    eval "$(ollmlx completion zsh)"            in ~/.zshrc, after compinit
  fish   ollmlx completion fish | source            in ~/.config/fish/config.fish"""


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run_completion(args: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode  # imported when used: it costs start-up time

    say(shellcode(["ollmlx"], shell=args.shell))
    return 0


def complete() -> None:
    """Answer the shell, which asks through the environment, and end the process."""
    import argcomplete

    argcomplete.autocomplete(whole_parser(), always_complete_options="long")


def _models(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Return the installed models that begin with a text; none while no daemon runs."""
    args = argparse.Namespace(**{"config": None, "host": None, "debug": False, **vars(parsed_args)})
    with suppress(OllmlxError):
        return [model["name"] for model in installed_models(connect(args), prefix)]
    return []


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser with every verb. The command itself imports the module of one verb only."""
    parser = argparse.ArgumentParser(prog="ollmlx", description="An Ollama-compatible model server for MLX.")
    add_global_options(parser)
    parser.add_argument("-v", "--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(metavar="VERB")
    for verb, (name, summary) in VERBS.items():
        module = import_module(f"ollmlx.cli.{name}")
        own = verbs.add_parser(
            verb, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        getattr(module, f"add_{verb}_arguments")(own)
        add_global_options(own, settings_file=not getattr(module, "PASSES_ON", False))
        for action in own._actions:  # argparse has no public list of them
            if action.metavar == "MODEL":
                action.completer = _models  # type: ignore[attr-defined]
    return parser
