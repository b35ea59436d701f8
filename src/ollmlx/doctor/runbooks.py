"""The runbooks: one page for each code, in the installed package or at the top of a checkout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from ollmlx.errors import InvalidRequest

HEAD = re.compile(r"^Severity: (\w+) · Since: \S+ · Owner: (\S+)$", re.MULTILINE)
HEADINGS = ("Seen as", "What it means", "Why it happens", "How to fix it", "How to check", "Not this")


def folder() -> Traversable:
    """ollmlx's own runbooks."""
    packaged = files("ollmlx") / "diagnostics"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "diagnostics"


def pages(more: Iterable[Traversable] = (), *, own: bool = True) -> dict[str, str]:
    """Every page by its code; `more` are the folders that plugins brought. `own`: with ollmlx's own, which win."""
    found: dict[str, str] = {}
    for place in (*more, *((folder(),) if own else ())):
        for entry in place.iterdir():
            code = entry.name.removesuffix(".md")
            if entry.name.endswith(".md") and code != "README":
                found[code] = entry.read_text(encoding="utf-8")
    return found


def page(code: str, more: Iterable[Traversable] = ()) -> str:
    """One page. Raises InvalidRequest for a code that is none."""
    known = pages(more)
    if code.upper() not in known:
        raise InvalidRequest(f"there is no code {code}", hint="ollmlx doctor --list")
    return known[code.upper()]


class Entry(NamedTuple):
    """A code as `ollmlx doctor --list` shows it. `owner`: ollmlx, or the plugin that reports it."""

    code: str
    title: str
    severity: str
    owner: str


def entry(code: str, text: str) -> Entry:
    """What the head of a page says."""
    found = HEAD.search(text)
    return Entry(code, title(text), *(found.groups() if found else ("", "")))


def title(text: str) -> str:
    """A page's first line without its mark and code."""
    return text.partition("\n")[0].partition(": ")[2]


def index(known: dict[str, str]) -> str:
    """`diagnostics/README.md`: every code with its title, a link each."""
    lines = ["# Runbooks", "", "One page for each code; `ollmlx doctor --explain CODE` prints it.", ""]
    lines += [f"- [{code}]({code}.md): {title(text)}" for code, text in sorted(known.items())]
    return "\n".join(lines) + "\n"


def troubleshooting(known: dict[str, str]) -> str:
    """`docs/troubleshooting.md`: what each code looks like, and how to fix it."""
    lines = ["# Troubleshooting", "", "Begin with `ollmlx doctor`. Made from the pages in `diagnostics/`.", ""]
    for code, text in sorted(known.items()):
        lines += [f"## {code}: {title(text)}", "", section(text, "Seen as"), "", section(text, "How to fix it"), ""]
    return "\n".join(lines)


def section(text: str, heading: str) -> str:
    """What stands under a heading of a page."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip()


def write_generated() -> None:
    """Write both again, in a checkout: `python -c 'from ollmlx.doctor.runbooks import *; write_generated()'`."""
    top, known = Path(__file__).parents[3], pages()
    (top / "diagnostics" / "README.md").write_text(index(known), encoding="utf-8")
    (top / "docs" / "troubleshooting.md").write_text(troubleshooting(known), encoding="utf-8")
