"""Small rooms: no file and no function grows past what one reading can hold."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/ollmlx_*/**/*.py")])
LARGEST_FILE = 500
LARGEST_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {"utils", "helpers", "common", "base", "manager", "misc"}


@cache
def read(source: Path) -> tuple[str, ast.Module]:
    """The text of a file, and what it says to Python."""
    text = source.read_text(encoding="utf-8")
    return text, ast.parse(text)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_within_their_budget(source: Path) -> None:
    text, tree = read(source)
    assert len(text.splitlines()) <= LARGEST_FILE
    assert source.stem not in NAMES_THAT_SAY_NOTHING
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LARGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(source: Path) -> None:
    text, tree = read(source)
    if not text.strip():
        pytest.skip("an empty package marker")
    assert ast.get_docstring(tree)


ARCHIVES = re.compile(r"\b(zipfile|tarfile|gzip|bz2|lzma|decompressobj|decompress|unpack_archive|extractall)\b")
MAY_OPEN = {"plugins/ollmlx_pypi/source.py", "src/ollmlx/doctor/bundle.py", "src/ollmlx/web/kit/body.py"}
"""One member of a wheel whose size and hash are known; a report that is written, never read; request bodies, which are
no archives and end at their limit."""


@pytest.mark.fault(37)
def test_nothing_else_opens_archives() -> None:
    found = {str(path.relative_to(ROOT)) for path in SOURCES if ARCHIVES.search(path.read_text(encoding="utf-8"))}
    assert found == MAY_OPEN
