"""`ollmlx ps`: the loaded models."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime

from ollmlx.cli.client import Client, Json

LOADING = "Loading..."
INTERVAL = 1.0  # seconds between two looks of --watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="print what runs each model, and how it does")
    parser.add_argument("--watch", action="store_true", help="keep looking until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect

    client = connect(args)
    if args.watch:
        return watch(client, args)
    print(loaded(client, args))
    return 0


def watch(client: Client, args: argparse.Namespace) -> int:
    """Look again and again: in place on a terminal, a table after the other elsewhere."""
    from ollmlx.cli.terminal import has_colour

    if args.json or not has_colour(sys.stdout):
        while True:
            print(loaded(client, args), flush=True)
            time.sleep(INTERVAL)
    from rich.live import Live
    from rich.text import Text

    with Live(Text(loaded(client, args)), auto_refresh=False) as live:
        while True:
            time.sleep(INTERVAL)
            live.update(Text(loaded(client, args)), refresh=True)


def loaded(client: Client, args: argparse.Namespace) -> str:
    """The loaded models as the flags want them."""
    answer = client.get("/api/ps")
    if args.json:
        return json.dumps(answer, indent=None if args.watch else 2)
    return ps_table(answer["models"]) + (ps_details(answer["models"]) if args.verbose else "")


def ps_table(models: list[Json]) -> str:
    """NAME, ID, SIZE, PROCESSOR, CONTEXT and UNTIL of each loaded model."""
    from ollmlx.cli.table import table
    from ollmlx.cli.terminal import width
    from ollmlx.cli.times import until
    from ollmlx.text.quantities import format_size

    now = datetime.now(UTC)
    rows = [
        (
            model["name"],
            model["digest"][:12],
            format_size(model["size"]),
            processor(model["size"], model["size_vram"]),
            str(model.get("context_length") or ""),
            LOADING if model.get("state") == "starting" else until(model.get("expires_at") or "", now),
        )
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows, width(sys.stdout))


def ps_details(models: list[Json]) -> str:
    """What the daemon tells of each runner beyond Ollama's fields, a line each."""
    known = {"name", "model", "digest", "size", "size_vram", "details", "expires_at", "context_length"}
    lines: list[str] = []
    for model in models:
        facts = {key: value for key, value in model.items() if key not in known and value not in (None, "", [], {})}
        lines += ["", model["name"]]
        lines += [f"  {key:<16} {', '.join(map(str, v)) if isinstance(v, list) else v}" for key, v in facts.items()]
    return "\n".join(["", *lines]) if lines else ""


def processor(size: int, on_gpu: int) -> str:
    """Where a model's memory is, as Ollama says it."""
    if size <= 0 or on_gpu > size:
        return "Unknown"
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu == size:
        return "100% GPU"
    cpu = round((size - on_gpu) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"
