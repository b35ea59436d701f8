"""`ollmlx push`: upload a model to a hub."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--insecure", action="store_true", help="allow a registry without a valid certificate")
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect
    from ollmlx.cli.progress import show_progress, succeeded

    client = connect(args)
    body = {"model": args.model, "insecure": args.insecure, "stream": True}
    show_progress(client.stream("/api/push", body, ended=succeeded), as_json=args.json)
    return 0
