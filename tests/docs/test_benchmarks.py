"""The benchmark's tables have their places in docs/benchmarks.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_scenario_has_its_marks() -> None:
    script = (ROOT / "benchmarks/engine.py").read_text(encoding="utf-8")
    told = re.search(r"SCENARIOS[^=]*= {(.*?)}", script, re.DOTALL)
    assert told is not None
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+)": ', told[1])
    assert len(names) == 5
    for name in names:
        assert re.search(rf"<!-- engine.py {name} -->.*<!-- end of {name} -->", page, re.DOTALL)


def test_the_tables_of_both_backends_have_their_marks() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for name in ("speed", "agreement"):
        assert re.search(rf"<!-- gguf.py {name} -->.*<!-- end of {name} -->", page, re.DOTALL)
