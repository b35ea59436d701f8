"""Imports go one way, and plugins import only what is public. Imports for types and inside of functions count, too.

import-linter checks the layers; it knows neither circles nor allow-lists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "src" / "ollmlx", *sorted(ROOT.glob("plugins/ollmlx_*"))]
PUBLIC = {
    "ollmlx", "ollmlx.types", "ollmlx.errors", "ollmlx.protocol", "ollmlx.web", "ollmlx.testing", "ollmlx.storekit",
    "ollmlx.runner", "ollmlx.runner.kit", "ollmlx.web.kit",
}  # fmt: skip
"""The modules that any plugin may import. Of the kits, their submodules as well."""
WITH_SUBMODULES = ("ollmlx.storekit.", "ollmlx.runner.kit.", "ollmlx.web.kit.")
BUILT_ON = {"ollmlx_cluster": "ollmlx_mlx", "ollmlx_mlx_vlm": "ollmlx_mlx"}
"""A plugin and the other plugin that it may import."""


@cache
def modules() -> dict[str, Path]:
    """Every module of ollmlx and of the first-party plugins, with its file."""
    found = {}
    for folder in FOLDERS:
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Each imported module and name; the name is empty for `import MODULE`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


@cache
def lazy_exports(module: str) -> dict[str, str]:
    """The names that a package imports on first use, each with its home."""
    if "lazy_exports(" not in modules()[module].read_text(encoding="utf-8"):
        return {}
    return {name: home for home, name in imports(module) if name and home in modules() and home != "ollmlx._lazy"}


def dependencies(module: str) -> set[str]:
    """The modules that a module depends on; a lazily exported name stands for its home."""
    found = set()
    for target, name in imports(module):
        if f"{target}.{name}" in modules():
            found.add(f"{target}.{name}")
        elif target in modules():
            found.add(lazy_exports(target).get(name, target))
    return found - {module} - set(lazy_exports(module).values())


def circles() -> list[list[str]]:
    """The strongly connected groups of modules (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(dependencies(module)):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(modules()):
        if module not in index:
            visit(module)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


def allowed(plugin: str, target: str) -> bool:
    top = target.partition(".")[0]
    if top == "ollmlx":
        return target in PUBLIC or target.startswith(WITH_SUBMODULES)
    return not top.startswith("ollmlx_") or top in (plugin, BUILT_ON.get(plugin))


@pytest.mark.parametrize("plugin", [folder.name for folder in FOLDERS[1:]])
def test_a_plugin_imports_only_what_any_plugin_may(plugin: str) -> None:
    for module in modules():
        if module == plugin or module.startswith(f"{plugin}."):
            for target, name in imports(module):
                whole = f"{target}.{name}" if f"{target}.{name}" in modules() else target
                assert allowed(plugin, whole), f"{module} imports {whole}"
