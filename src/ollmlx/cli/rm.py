"""`ollmlx rm`: remove models; loaded ones are stopped first."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect
    from ollmlx.cli.main import report
    from ollmlx.errors import NotFound

    client, code = connect(args), 0
    for model in args.models:
        try:
            client.call("DELETE", "/api/delete", {"model": model})
            print(f"deleted '{model}'")
        except NotFound as error:  # the others can still go
            report(NotFound(error.message, code=error.code, hint="ollmlx list"))
            code = 1
    return code
