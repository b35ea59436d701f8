"""The tables of docs/security.md, faults.md and architecture.md name every test and room, and only those."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []
    assert [(file, name) for file, name in NAMED if name not in functions_of(file)] == []


def test_every_attack_is_named_and_says_what_it_is() -> None:
    attacks = {f"tests/attacks/{path.name}": path for path in (ROOT / "tests/attacks").glob("test_*.py")}
    assert sorted(set(attacks) - {file for file, _ in NAMED}) == []
    for path in attacks.values():
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert words.startswith("Attack: "), path.name


FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
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
    rows = {int(number): set(re.findall(r"`([^`]+)`", files)) for number, files in ROW.findall(FAULTS)}
    assert list(rows) == list(range(1, 49))
    assert rows == marked()


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]


def test_the_table_names_every_room() -> None:
    packages = [*ROOT.glob("src/ollmlx/**/__init__.py"), *ROOT.glob("plugins/*/__init__.py")]
    rooms = {str(package.parent.relative_to(ROOT)).removeprefix("src/") for package in packages} - {"ollmlx"}
    named = {name.rstrip("/") for name in re.findall(r"`((?:ollmlx|plugins)/[\w/]+)`", ROOMS)}
    assert sorted(rooms - named) == []
    assert sorted(name for name in named - rooms if not (ROOT / "src" / f"{name}.py").is_file()) == []


def test_the_files_it_names_exist() -> None:
    missing = [
        name
        for name in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE)
        if not [*ROOT.glob(f"src/**/{name}"), *ROOT.glob(f"plugins/**/{name}"), *ROOT.glob(name)]
    ]
    assert missing == []
