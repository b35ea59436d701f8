"""docs/security.md names tests that exist, and every attack that is replayed has its promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []
    assert [(file, name) for file, name in NAMED if name not in functions_of(file)] == []


def test_every_attack_is_named_and_says_what_it_is() -> None:
    attacks = {f"tests/attacks/{path.name}": path for path in (ROOT / "tests/attacks").glob("test_*.py")}
    assert sorted(set(attacks) - {file for file, _ in NAMED}) == []
    for path in attacks.values():
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert words.startswith("Attack: "), path.name
