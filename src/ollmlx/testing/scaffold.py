"""`ollmlx plugin new`: a small distribution that works at once and passes its own tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

from ollmlx import __version__
from ollmlx.errors import Conflict, InvalidRequest

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST: Final = 40
SUMMARIES: Final[Mapping[str, str]] = {
    "backend": "A backend for ollmlx: runs models of a format of its own",
    "store": "A store for ollmlx: owns models on disk",
    "routes": "A route family for ollmlx: answers HTTP requests in a dialect of its own",
    "checks": "A check for `ollmlx doctor`",
}
KINDS: Final = tuple(SUMMARIES)


def write_plugin(name: str, kind: str, into: Path) -> tuple[Path, ...]:
    """Write the distribution `ollmlx-NAME` as a new folder in `into`, and return its files.

    Raises InvalidRequest for an unusable name or unknown kind, Conflict when the plugin or folder exists.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise InvalidRequest(f"{name!r} is no plugin name", hint="use small letters, digits and '-', as in my-store")
    if kind not in SUMMARIES:
        raise InvalidRequest(f"there is no kind {kind!r}", hint=f"use one of: {', '.join(KINDS)}")
    if find_spec(_module(name)) is not None:
        raise Conflict(f"there is a plugin {name!r} already", hint="ollmlx plugin list")
    top = into / f"ollmlx-{name}"
    if top.exists():
        raise Conflict(f"{top} exists already", hint="choose another name or folder")
    written = []
    for target, text in _contents(name, kind).items():
        path = top / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return tuple(written)


def _module(name: str) -> str:
    return f"ollmlx_{name.replace('-', '_')}"


def _class_prefix(name: str, kind: str) -> str:
    """Return the prefix of class names: `My` for `my-store` of kind store, so that its class is `MyStore`."""
    whole = "".join(part.capitalize() for part in name.split("-"))
    return whole.removesuffix(kind.capitalize()).removesuffix(kind.rstrip("s").capitalize()) or whole


def _contents(name: str, kind: str) -> dict[str, str]:
    module = _module(name)
    words = {
        "name": name,
        "module": module,
        "Class": _class_prefix(name, kind),
        "CODE": f"{name.replace('-', '').upper():X<3.3}001",
        "summary": SUMMARIES[kind],
        "version": __version__,
    }
    templates = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{module}/__init__.py": f"{kind}/module.py.txt",
        f"tests/test_{module}.py": f"{kind}/test.py.txt",
    }
    if kind == "checks":
        templates[f"{module}/diagnostics/{words['CODE']}.md"] = f"{kind}/runbook.md.txt"
    folder = files("ollmlx.testing") / "templates"
    return {
        target: Template(folder.joinpath(source).read_text(encoding="utf-8")).substitute(words)
        for target, source in templates.items()
    }
