"""`ollmlx stop`: unload a model."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect
    from ollmlx.errors import NotFound

    try:
        connect(args).post("/api/generate", {"model": args.model, "keep_alive": 0, "stream": False})
    except NotFound as error:
        raise NotFound(f"couldn't find model {args.model!r} to stop", hint="ollmlx ps") from error
    return 0
