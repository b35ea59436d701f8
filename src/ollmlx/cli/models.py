"""The verbs for models on this machine: list, show, ps, stop, rm and cp."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import connect
from ollmlx.cli.formatting import ago, table, until
from ollmlx.cli.terminal import has_colour, report, say, width
from ollmlx.errors import Forbidden, NotFound
from ollmlx.text.controls import escape_text
from ollmlx.text.quantities import format_size

PARTS = {
    "license": "license",
    "modelfile": "Modelfile",
    "parameters": "parameters",
    "template": "prompt template",
    "system": "system message",
}
"""Part of /api/show -> its name for a person."""
WATCH_INTERVAL = 1.0
"""Seconds between two requests of `ps --watch`."""

Rows = list[tuple[str, ...]]


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only models whose names begin with it")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run_list(args: argparse.Namespace) -> int:
    found = installed_models(connect(args), args.prefix)
    say(json.dumps({"models": found}, indent=2) if args.json else models_table(found))
    return 0


def installed_models(client: Client, prefix: str = "") -> list[Json]:
    """Return the installed models whose names begin with a prefix; upper and lower case are the same."""
    found = client.get("/api/tags")["models"]
    return [model for model in found if model["name"].lower().startswith(prefix.lower())]


def models_table(models: list[Json]) -> str:
    """Return NAME, ID, SIZE and MODIFIED of each model."""
    now = datetime.now(UTC)
    rows = [
        (model["name"], model["digest"][:12], format_size(model["size"]), ago(model["modified_at"], now))
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows, width(sys.stdout))


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    group = parser.add_mutually_exclusive_group()
    for part, name in PARTS.items():
        group.add_argument(f"--{part}", dest="part", action="store_const", const=part, help=f"print only the {name}")
    parser.add_argument("-v", "--verbose", action="store_true", help="also print metadata and tensors")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run_show(args: argparse.Namespace) -> int:
    shown = connect(args).post("/api/show", {"model": args.model, "verbose": args.verbose})
    if args.json:
        say(json.dumps(shown, indent=2))
    elif args.part:
        say(part_of(shown, args.part))
    else:
        say(description(shown, verbose=args.verbose))
    return 0


def part_of(shown: Json, part: str) -> str:
    """Return one part of `/api/show` as text, without line feeds at its end."""
    value = shown.get(part) or ""
    return ("\n\n".join(value) if isinstance(value, list) else str(value)).rstrip("\n")


def description(shown: Json, *, verbose: bool = False) -> str:
    """Return `/api/show` in sections, as Ollama prints it."""
    details, info = shown.get("details") or {}, shown.get("model_info") or {}
    parameters = (shown.get("parameters") or "").splitlines()
    license_lines = [line.strip() for line in part_of(shown, "license").splitlines() if line.strip()]
    sections: list[tuple[str, Rows]] = [
        ("Model", _model_rows(shown, details, info)),
        ("Capabilities", [(name,) for name in shown.get("capabilities") or ()]),
        ("Projector", [(key, _value(value)) for key, value in (shown.get("projector_info") or {}).items()]),
        ("Parameters", [tuple(line.split(None, 1)) for line in parameters if line.strip()]),
        ("Metadata", [(key, _value(value)) for key, value in sorted(info.items())] if verbose else []),
        ("Tensors", [_tensor(tensor) for tensor in shown.get("tensors") or ()] if verbose else []),
        ("System", [(line,) for line in (shown.get("system") or "").splitlines() if line.strip()]),
        ("License", [(line,) for line in license_lines[:2]]),
        ("Cannot be run", [(shown[part],) for part in ("problem", "hint") if shown.get(part)]),
    ]
    return "\n\n".join(_section(title, rows) for title, rows in sections if rows)


def _model_rows(shown: Json, details: Json, info: Json) -> Rows:
    architecture = info.get("general.architecture") or details.get("family") or ""
    rows: Iterable[tuple[str, Any]] = (
        ("architecture", architecture),
        ("parameters", details.get("parameter_size") or info.get("general.parameter_count")),
        ("context length", info.get(f"{architecture}.context_length") or details.get("context_length")),
        ("embedding length", info.get(f"{architecture}.embedding_length") or details.get("embedding_length")),
        ("quantization", details.get("quantization_level")),
        ("format", details.get("format")),
        ("parent", details.get("parent_model")),
        ("store", shown.get("store")),
        ("backend", _engine(shown)),
    )
    return [(label, str(value)) for label, value in rows if value]


def _engine(shown: Json) -> str:
    """Return the engine with the reason for it."""
    if shown.get("problem"):
        return "none: see below"
    return ": ".join(str(shown[part]) for part in ("backend", "why") if shown.get(part))


def _tensor(tensor: Json) -> tuple[str, ...]:
    return tensor["name"], str(tensor.get("type", "")), json.dumps(tensor.get("shape", []))


def _value(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:3]))
        return f"[{shown}{', ...' if len(value) > 3 else ''}]"
    return str(value)


def _section(title: str, rows: Rows) -> str:
    columns = max(len(row) for row in rows)
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(columns)]
    lines = ["    ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([f"  {title}", *(f"    {line}" for line in lines)])


def add_ps_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="also print what the daemon knows of each runner")
    parser.add_argument("--watch", action="store_true", help="print again every second until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run_ps(args: argparse.Namespace) -> int:
    client = connect(args)
    if args.watch:
        return _watch(client, args)
    say(_loaded_models(client, args))
    return 0


def _watch(client: Client, args: argparse.Namespace) -> int:
    """Print the table again and again: in place on a terminal, one after the other elsewhere."""
    if args.json or not has_colour(sys.stdout):
        while True:
            say(_loaded_models(client, args), flush=True)
            time.sleep(WATCH_INTERVAL)
    from rich.live import Live  # imported when used: it costs start-up time
    from rich.text import Text

    with Live(Text(escape_text(_loaded_models(client, args))), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL)
            live.update(Text(escape_text(_loaded_models(client, args))), refresh=True)


def _loaded_models(client: Client, args: argparse.Namespace) -> str:
    answer = client.get("/api/ps")
    if args.json:
        return json.dumps(answer, indent=None if args.watch else 2)
    models = answer["models"]
    return _ps_table(models) + (_ps_details(models) + _ps_requests(client) if args.verbose else "")


def _ps_table(models: list[Json]) -> str:
    now = datetime.now(UTC)
    rows = [
        (
            model["name"],
            model["digest"][:12],
            format_size(model["size"]),
            processor(model["size"], model["size_vram"]),
            str(model.get("context_length") or ""),
            "Loading..." if model.get("state") == "starting" else until(model.get("expires_at") or "", now),
        )
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows, width(sys.stdout))


def _ps_details(models: list[Json]) -> str:
    """Return the fields of each runner that Ollama does not have, one a line."""
    known = {"name", "model", "digest", "size", "size_vram", "details", "expires_at", "context_length"}
    lines: list[str] = []
    for model in models:
        facts = {key: value for key, value in model.items() if key not in known and value not in (None, "", [], {})}
        lines += ["", model["name"]]
        lines += [f"  {key:<16} {', '.join(map(str, v)) if isinstance(v, list) else v}" for key, v in facts.items()]
    return "\n".join(["", *lines]) if lines else ""


def _ps_requests(client: Client) -> str:
    """Return the requests in flight as a table; nothing where there are none, or the daemon does not tell us."""
    try:
        found = client.get("/api/daemon/requests")["requests"]
    except (Forbidden, NotFound):
        return ""
    rows = [
        (one["id"], one["client"], one["model"], _progress(one), str(one["tokens"]), str(one["tokens_per_second"]))
        for one in found
    ]
    head = ("REQUEST", "CLIENT", "MODEL", "STATE", "TOKENS", "TOKENS/S")
    return "\n\n" + table(head, rows, width(sys.stdout)) if rows else ""


def _progress(request: Json) -> str:
    """Return what a request does: `waiting`, `reading 40%` of its prompt, `answering`."""
    prompt = request["prompt"]
    reads = request["state"] == "reading" and prompt and prompt["total"]
    return f"reading {100 * prompt['done'] // prompt['total']}%" if reads else str(request["state"])


def processor(size: int, on_gpu: int) -> str:
    """Return where a model's memory is, in Ollama's words."""
    if size <= 0 or on_gpu > size:
        return "Unknown"
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu == size:
        return "100% GPU"
    cpu = round((size - on_gpu) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def add_stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")


def run_stop(args: argparse.Namespace) -> int:
    try:
        connect(args).post("/api/generate", {"model": args.model, "keep_alive": 0, "stream": False})
    except NotFound as error:
        raise NotFound(f"couldn't find model {args.model!r} to stop", hint="ollmlx ps") from error
    return 0


def add_rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+")


def run_rm(args: argparse.Namespace) -> int:
    client, code = connect(args), 0
    for model in args.models:
        try:
            client.call("DELETE", "/api/delete", {"model": model})
            say(f"deleted '{model}'")
        except NotFound as error:  # go on with the other models
            report(NotFound(error.message, code=error.code, hint="ollmlx list"))
            code = 1
    return code


def add_cp_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION")


def run_cp(args: argparse.Namespace) -> int:
    connect(args).post("/api/copy", {"source": args.source, "destination": args.destination})
    say(f"copied '{args.source}' to '{args.destination}'")
    return 0
