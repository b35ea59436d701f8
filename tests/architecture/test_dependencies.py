"""Imports are declared in pyproject.toml, and declared dependencies are imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_IMPORTED = {
    "pip": "a program that the source `pypi` runs",
    "mlx": "the extras choose its back end; the engine imports it",
}
"""Declared for another reason than an import."""


def test_every_import_of_the_product_is_declared() -> None:
    declared = names(PROJECT["dependencies"]) | {
        name for extra, lines in PROJECT["optional-dependencies"].items() for name in names(lines)
    }
    homes = packages_distributions()
    undeclared = {
        module
        for module in imported("src", "plugins")
        if not {canonical(home) for home in homes.get(module, [module])} & declared
    }
    assert sorted(undeclared) == []


def test_every_dependency_of_the_product_is_imported() -> None:
    homes = packages_distributions()
    used = {canonical(home) for module in imported("src", "plugins") for home in homes.get(module, [module])}
    assert sorted(names(PROJECT["dependencies"]) - used - set(NOT_IMPORTED)) == []


def imported(*folders: str) -> set[str]:
    """The top-level packages that files below these folders import, lazily or for types included."""
    found: set[str] = set()
    for folder in folders:
        for source in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found.add(node.module.split(".")[0])
    return {name for name in found - sys.stdlib_module_names if not name.startswith("ollmlx")}


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
