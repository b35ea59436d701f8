"""One word for each thing: names use the vocabulary of docs/architecture.md, and no public class is defined twice."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/ollmlx_*/**/*.py")])

EVERYWHERE = {
    "arrivals": "pending requests", "attendance": "group monitor", "canary": "trial prompt", "condemn": "kill",
    "doorstep": "acceptor", "entrance": "admission", "fleet": "runner set", "intake": "installer",
    "lies": "wrong answers", "losses": "rank failures", "outlook": "capacity", "persuade": "terminate",
    "pulse": "liveness", "rendezvous": "sockets", "shelf": "model index", "sing": "trial prompt",
    "sings": "trial prompt", "singleton": "instance lock", "stranger": "pending connection", "sweep": "orphans",
    "vigil": "health", "workshop": "runner factory", "world": "check context",
}  # fmt: skip
"""Words that appear in no name, not even as a part (`shelf_of`, `_sweep`), and the words to use."""

CLASSES_AND_MODULES = {
    "correction": "fixes", "death": "runner failure", "declared": "model overrides", "exchange": "request context",
    "exits": "exit status", "gate": "middleware", "holder": "lock owner", "house": "capacity", "incoming": "request",
    "launching": "launch planner", "link": "collectives, client", "making": "creation", "place": "pool entry",
    "site": "state", "taken": "port in use", "waits": "request context",
}  # fmt: skip
"""Words that are neither a class nor a module; as variables they have ordinary meanings."""

API_1 = {"src/ollmlx/web/__init__.py: Exchange"}
"""Names that plugins written against API 1 import."""


def test_no_public_class_is_defined_twice() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for source, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(source.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_names_use_the_vocabulary() -> None:
    found = {
        f"{source.relative_to(ROOT)}: {name}": replacement
        for source, tree in trees()
        for name in {source.stem, *defined(tree)}
        if (replacement := better(name, is_type=name == source.stem or name[:1].isupper()))
    }
    assert {where: word for where, word in found.items() if where not in API_1} == {}


def test_a_docstring_names_its_subject() -> None:
    riddles = [
        f"{source.relative_to(ROOT)}: {text.splitlines()[0]}"
        for source in (*SOURCES, *ROOT.glob("tests/**/*.py"))
        for text in texts(ast.parse(source.read_text(encoding="utf-8")))
        if re.match(r"(Who|What|Whether|Where|How|Nobody|Somebody)\b", text)
    ]
    assert riddles == []


def texts(tree: ast.Module) -> Iterator[str]:
    """Every docstring, those after an attribute included."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text.strip()


def better(name: str, *, is_type: bool) -> str | None:
    """The word to use for a name that is outside the vocabulary."""
    if is_type and name.lower() in CLASSES_AND_MODULES:
        return CLASSES_AND_MODULES[name.lower()]
    return next((EVERYWHERE[part] for part in parts(name) if part in EVERYWHERE), None)


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for source in SOURCES:
        yield source, ast.parse(source.read_text(encoding="utf-8"))


def defined(tree: ast.Module) -> Iterator[str]:
    """Every name that a module gives to something: classes, functions, parameters, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr


def parts(name: str) -> list[str]:
    """`RunnerSet` and `runner_set` as `["runner", "set"]`."""
    return re.findall(r"[a-z]+", re.sub(r"([A-Z]+)", r"_\1", name).lower())
