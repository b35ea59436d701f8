"""`ollmlx pull`: bring a model onto this machine."""

from __future__ import annotations

import argparse

from ollmlx.cli.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--insecure", action="store_true", help="speak plain HTTP with the registry, without TLS")
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.background import ensure_daemon
    from ollmlx.cli.connection import connect

    client = connect(args)
    ensure_daemon(client, args)
    pull(client, args.model, insecure=args.insecure, as_json=args.json)
    return 0


def pull(client: Client, model: str, *, insecure: bool = False, as_json: bool = False) -> None:
    """Pull a model through the daemon and show how far it is."""
    from ollmlx.cli.progress import show_progress, succeeded

    body = {"model": model, "insecure": insecure, "stream": True}
    show_progress(client.stream("/api/pull", body, ended=succeeded), as_json=as_json)
