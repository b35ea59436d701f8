"""`ollmlx show`: describe a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from ollmlx.cli.client import Json

PARTS = ("license", "modelfile", "parameters", "template", "system")
LICENSE_LINES = 2  # enough to recognise it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    group = parser.add_mutually_exclusive_group()
    for part in PARTS:
        group.add_argument(f"--{part}", dest="part", action="store_const", const=part, help=f"print the {part} alone")
    parser.add_argument("-v", "--verbose", action="store_true", help="print metadata and tensors, too")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.connection import connect

    shown = connect(args).post("/api/show", {"model": args.model, "verbose": args.verbose})
    if args.json:
        print(json.dumps(shown, indent=2))
    elif args.part:
        print(part_of(shown, args.part))
    else:
        print(sections(shown, verbose=args.verbose))
    return 0


def part_of(shown: Json, part: str) -> str:
    """One part as text, without its last line feeds."""
    value = shown.get(part) or ""
    return ("\n\n".join(value) if isinstance(value, list) else str(value)).rstrip("\n")


def sections(shown: Json, *, verbose: bool = False) -> str:
    """The description, section by section, as Ollama prints it."""
    details, info = shown.get("details") or {}, shown.get("model_info") or {}
    found: list[tuple[str, list[tuple[str, ...]]]] = [("Model", [*_model_rows(details, info), *_own_rows(shown)])]
    found.append(("Capabilities", [(name,) for name in shown.get("capabilities") or ()]))
    found.append(("Projector", [(key, _value(value)) for key, value in (shown.get("projector_info") or {}).items()]))
    parameters = (shown.get("parameters") or "").splitlines()
    found.append(("Parameters", [tuple(line.split(None, 1)) for line in parameters if line.strip()]))
    if verbose:
        found.append(("Metadata", [(key, _value(value)) for key, value in sorted(info.items())]))
        found.append(("Tensors", [_tensor(tensor) for tensor in shown.get("tensors") or ()]))
    found.append(("System", [(line,) for line in (shown.get("system") or "").splitlines() if line.strip()]))
    license_lines = [line.strip() for line in part_of(shown, "license").splitlines() if line.strip()]
    found.append(("License", [(line,) for line in license_lines[:LICENSE_LINES]]))
    problem: list[tuple[str, ...]] = [(shown[part],) for part in ("problem", "hint") if shown.get(part)]
    found.append(("Cannot be run", problem))
    return "\n\n".join(_section(title, rows) for title, rows in found if rows)


def _model_rows(details: Json, info: Json) -> Iterable[tuple[str, ...]]:
    architecture = info.get("general.architecture") or details.get("family") or ""
    rows = (
        ("architecture", architecture),
        ("parameters", details.get("parameter_size") or info.get("general.parameter_count")),
        ("context length", info.get(f"{architecture}.context_length") or details.get("context_length")),
        ("embedding length", info.get(f"{architecture}.embedding_length") or details.get("embedding_length")),
        ("quantization", details.get("quantization_level")),
        ("format", details.get("format")),
        ("parent", details.get("parent_model")),
    )
    return ((label, str(value)) for label, value in rows if value)


def _own_rows(shown: Json) -> Iterable[tuple[str, ...]]:
    """Where the model is, and what runs it."""
    backend = shown.get("backend") or (shown.get("problem") and "none: see below")
    rows = (("store", shown.get("store")), ("backend", backend))
    return ((label, str(value)) for label, value in rows if value)


def _tensor(tensor: Json) -> tuple[str, ...]:
    return tensor["name"], str(tensor.get("type", "")), json.dumps(tensor.get("shape", []))


def _value(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:3]))
        return f"[{shown}{', ...' if len(value) > 3 else ''}]"
    return str(value)


def _section(title: str, rows: list[tuple[str, ...]]) -> str:
    columns = max(len(row) for row in rows)
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(columns)]
    lines = ["    ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([f"  {title}", *(f"    {line}" for line in lines)])
