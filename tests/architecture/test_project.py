"""Small rooms: no file and no function grows past what one reading can hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import ollmlx
from ollmlx.plugin import contracts

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


def test_every_public_name_exists_and_no_other_is_promised() -> None:
    for name in ollmlx.__all__:
        assert getattr(ollmlx, name) is not None
    assert set(dir(ollmlx)) == set(ollmlx.__all__)


def test_names_of_earlier_versions_still_work_and_are_listed_nowhere() -> None:
    from ollmlx import testing

    assert testing.World is testing.CheckContext
    assert "World" not in testing.__all__


def test_contracts_are_narrow_enough_to_fake() -> None:
    for contract in (contracts.Backend, contracts.Store, contracts.Source, contracts.Check, contracts.Engine):
        methods = [name for name, value in vars(contract).items() if callable(value) and not name.startswith("_")]
        assert len(methods) <= 8, f"{contract.__name__} has {len(methods)} methods"


def test_importing_ollmlx_imports_nothing_heavy() -> None:
    heavy = "{'pydantic', 'quart', 'aiohttp', 'mlx', 'huggingface_hub', 'rich'}"
    program = f"import sys, ollmlx, ollmlx.cli.main; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "[]"


def test_the_whole_daemon_is_imported_without_mlx() -> None:
    program = (
        "import sys, ollmlx.app, ollmlx.web.server.serve\n"
        "from ollmlx.settings import Settings\n"
        "from ollmlx.plugin.loader import load_plugins\n"
        "loaded = load_plugins(Settings())\n"
        "assert any(plugin.name == 'mlx' and plugin.enabled for plugin in loaded.loaded), loaded.loaded\n"
        "print(sorted({'mlx', 'mlx_lm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
