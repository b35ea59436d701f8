"""The runbooks: one page for each code, in the installed package or at the top of a checkout.

In a checkout, `python -m ollmlx.doctor.runbooks` writes the files that are generated from the pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from ollmlx.errors import InvalidRequest
from ollmlx.errors.findings import RETIRED

HEAD = re.compile(r"^Severity: (\w+) · Since: \S+ · Owner: (\S+)$", re.MULTILINE)
HEADINGS = ("Seen as", "What it means", "Why it happens", "How to fix it", "How to check", "Not this")


class Runbook(NamedTuple):
    """The head of a page, as `ollmlx doctor --list` shows it. `owner`: ollmlx, or the plugin that reports the code."""

    code: str
    title: str
    severity: str
    owner: str


def folder() -> Traversable:
    """Return the folder of ollmlx's own pages."""
    packaged = files("ollmlx") / "diagnostics"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "diagnostics"


def pages(more: Iterable[Traversable] = (), *, own: bool = True) -> dict[str, str]:
    """Return every page by its code. `more`: the folders of plugins. `own`: include ollmlx's pages, which win."""
    found: dict[str, str] = {}
    for source in (*more, *((folder(),) if own else ())):
        for item in source.iterdir():
            code = item.name.removesuffix(".md")
            if item.name.endswith(".md") and code != "README":
                found[code] = item.read_text(encoding="utf-8")
    return found


def page(code: str, more: Iterable[Traversable] = ()) -> str:
    """Return the page of a code; of a retired code, the page of its successor. Raises InvalidRequest if unknown."""
    code, known = code.upper(), pages(more)
    if code in known:
        return known[code]
    if (successor := RETIRED.get(code)) is not None:
        return f"{code} is retired. ollmlx now reports {successor} instead.\n\n{known[successor]}"
    raise InvalidRequest(f"there is no code {code}", hint="ollmlx doctor --list")


def runbook(code: str, text: str) -> Runbook:
    """Parse the head of a page."""
    found = HEAD.search(text)
    return Runbook(code, title(text), *(found.groups() if found else ("", "")))


def title(text: str) -> str:
    """Return a page's first line without the heading mark and the code."""
    return text.partition("\n")[0].partition(": ")[2]


def section(text: str, heading: str) -> str:
    """Return the text under a heading of a page."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip()


def index(known: dict[str, str]) -> str:
    """Return `diagnostics/README.md`: every code with its title and a link, then the retired codes."""
    lines = ["# Runbooks", "", "One page for each code. `ollmlx doctor --explain CODE` prints it.", ""]
    lines += [f"- [{code}]({code}.md): {title(text)}" for code, text in sorted(known.items())]
    lines += ["", "## Retired codes", "", "These codes are not reported any more, and they are never used again.", ""]
    lines += ["| retired | reported instead |", "|---|---|"]
    lines += [f"| {old} | [{new}]({new}.md) |" for old, new in sorted(RETIRED.items())]
    return "\n".join(lines) + "\n"


def troubleshooting(known: dict[str, str]) -> str:
    """Return `docs/troubleshooting.md`: what each code looks like, and how to fix it."""
    lines = ["# Troubleshooting", "", "Begin with `ollmlx doctor`. This page is generated from `diagnostics/`.", ""]
    for code, text in sorted(known.items()):
        lines += [f"## {code}: {title(text)}", "", section(text, "Seen as"), "", section(text, "How to fix it"), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    top, known = Path(__file__).parents[3], pages()
    (top / "diagnostics" / "README.md").write_text(index(known), encoding="utf-8")
    (top / "docs" / "troubleshooting.md").write_text(troubleshooting(known), encoding="utf-8")
