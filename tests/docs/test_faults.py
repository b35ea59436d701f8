"""The table of faults is what the tests show: every row has its tests, every test's row is there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def marked() -> dict[int, set[str]]:
    """The files with a test that carries the number of a row."""
    found: dict[int, set[str]] = defaultdict(set)
    for file in (ROOT / "tests").rglob("test_*.py"):
        if "mark.fault(" not in (text := file.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    found[ast.literal_eval(mark.args[0])].add(str(file.relative_to(ROOT / "tests")))
    return dict(found)


def test_every_row_names_the_files_of_its_tests() -> None:
    rows = {int(number): set(re.findall(r"`([^`]+)`", files)) for number, files in ROW.findall(PAGE)}
    assert list(rows) == list(range(1, 49))
    assert rows == marked()
