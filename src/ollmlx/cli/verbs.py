"""The verbs of the command `ollmlx`, and their parsers. Only the module of the verb that is asked for is imported."""

from __future__ import annotations

import argparse
from importlib import import_module
from types import ModuleType

VERBS = {
    "serve": ("daemon", "start the daemon in this terminal"),
    "service": ("service", "keep a daemon running: at login, at boot, after a failure"),
    "run": ("run", "answer a prompt, or chat"),
    "launch": ("launch", "start a coding agent with a model"),
    "pull": ("transfer", "download a model to this machine"),
    "push": ("transfer", "upload a model to a hub or a registry"),
    "create": ("create", "create a model from a Modelfile"),
    "list": ("models", "list installed models"),
    "ps": ("models", "list loaded models"),
    "show": ("models", "describe a model"),
    "stop": ("models", "unload a model"),
    "rm": ("models", "remove models"),
    "cp": ("models", "give a model a second name"),
    "logs": ("daemon", "print the daemon's log"),
    "bench": ("bench", "measure a model on this machine"),
    "doctor": ("doctor", "find problems, and the commands that fix them"),
    "cache": ("cache", "list and remove saved prompt caches"),
    "config": ("config", "print and check the settings"),
    "key": ("key", "make, list and revoke API keys; print their use"),
    "plugin": ("plugin", "list and create plugins"),
    "completion": ("completion", "print the completion for a shell"),
    "upgrade": ("upgrade", "tell of a newer version, and the command that installs it"),
    "version": ("daemon", "print the versions of client and daemon"),
}
"""Verb -> (its module in this package, its summary)."""
ALIASES = {"start": "serve", "ls": "list"}


def verb_parser(verb: str) -> tuple[argparse.ArgumentParser, ModuleType]:
    """Return the parser of a verb, and its module."""
    name, summary = VERBS[verb]
    module = import_module(f"ollmlx.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"ollmlx {verb}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    getattr(module, f"add_{verb}_arguments")(parser)
    add_global_options(parser, settings_file=not getattr(module, "PASSES_ON", False))
    return parser, module


def add_global_options(parser: argparse.ArgumentParser, *, settings_file: bool = True) -> None:
    """Add the options that every verb takes."""
    group = parser.add_argument_group("everywhere")
    unset = argparse.SUPPRESS
    if settings_file:
        group.add_argument(
            "--config", metavar="FILE", default=unset, help="use this settings file instead of the one that is found"
        )
    group.add_argument("--host", metavar="HOST:PORT", default=unset, help="the daemon's address; also OLLAMA_HOST")
    group.add_argument("--debug", action="store_true", default=unset, help="log every step; show tracebacks")
