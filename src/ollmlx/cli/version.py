"""`ollmlx version`: the versions of client and daemon."""

from __future__ import annotations

import argparse

from ollmlx import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.client import NotRunning
    from ollmlx.cli.connection import connect

    client = connect(args)
    try:
        told = client.get("/api/version")
    except NotRunning:
        told = None
    if args.json:
        import json

        print(json.dumps({"client": __version__, "address": str(client.address), "daemon": told}))
        return 0
    print(f"ollmlx version {__version__}")
    if told is None:
        print(f"daemon: none answers at {client.address}")
    else:
        extra = f" (ollmlx {told['ollmlx']})" if "ollmlx" in told else ""
        print(f"daemon: API version {told['version']}{extra} at {client.address}")
    return 0
