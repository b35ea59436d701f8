"""`ollmlx serve`: the daemon, in this terminal, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse

DESCRIPTION = """Start the daemon in this terminal. It stops, with every runner, at Ctrl-C or SIGTERM; SIGHUP makes it
read its settings again.

Settings come from the command line, OLLMLX_SECTION__KEY, Ollama's own variables and ollmlx.toml, in this order;
`ollmlx config` prints them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", dest="models_folder", metavar="FOLDER", help="the models folder; also OLLAMA_MODELS"
    )


async def run(args: argparse.Namespace) -> int:
    from ollmlx.app import build
    from ollmlx.cli.configured import load
    from ollmlx.reload import reload
    from ollmlx.web.server.serve import run as listen

    loaded = load(args)
    app = build(loaded.settings, notices=tuple(map(str, loaded.warnings)))
    return await listen(app, lambda: reload(app, lambda: load(args)))
