"""The commands that the documentation tells people to type exist, and the benchmarks' tables have their places."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ollmlx.cli.verbs import ALIASES, VERBS, verb_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "diagnostics").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = (line.strip().removeprefix("$ ") for line in block.splitlines())
            found += [(page.name, line) for line in lines if re.match(r"(?:[A-Z_]+=\S+ )*ollmlx ", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_documentation_parses(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("ollmlx") + 1 :]
    verb = ALIASES.get(words[0], words[0])
    assert verb in VERBS, f"{page}: {line}"
    parser, _ = verb_parser(verb)
    for name in ("config", "host", "debug"):
        parser.set_defaults(**{name: None})
    passed_on = words.index("--") if "--" in words else len(words)  # the rest is for a program that the verb starts
    parser.parse_intermixed_args(words[1:passed_on])


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def test_each_table_of_the_benchmarks_has_its_marks() -> None:
    script = (ROOT / "benchmarks/engine.py").read_text(encoding="utf-8")
    scenarios = re.findall(r'"(\w+)": ', script.partition("SCENARIOS")[2].partition("= {")[2].partition("}")[0])
    assert len(scenarios) == 6
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for script, name in [*(("engine.py", name) for name in scenarios), ("gguf.py", "speed"), ("gguf.py", "agreement")]:
        assert re.search(rf"<!-- {script} {name} -->.*<!-- end of {name} -->", page, re.DOTALL)
