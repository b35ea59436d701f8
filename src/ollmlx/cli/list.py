"""`ollmlx list`: the installed models."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from ollmlx.cli.client import Client, Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect

    if args.json:
        import json

        print(json.dumps({"models": models(connect(args), args.prefix)}, indent=2))
    else:
        print(models_table(models(connect(args), args.prefix)))
    return 0


def models(client: Client, prefix: str = "") -> list[Json]:
    """The installed models whose names begin with a prefix, in any letter case."""
    found = client.get("/api/tags")["models"]
    return [model for model in found if model["name"].lower().startswith(prefix.lower())]


def models_table(found: list[Json]) -> str:
    """NAME, ID, SIZE and MODIFIED of each model."""
    from ollmlx.cli.table import table
    from ollmlx.cli.terminal import width
    from ollmlx.cli.times import ago
    from ollmlx.text.quantities import format_size

    now = datetime.now(UTC)
    rows = [
        (model["name"], model["digest"][:12], format_size(model["size"]), ago(model["modified_at"], now))
        for model in found
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows, width(sys.stdout))
