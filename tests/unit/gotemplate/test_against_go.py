"""Templates are rendered as Go renders them: the same 500 generated cases go through both."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.gotemplate.generated import Generator
from tests.unit.gotemplate.shapes import DATA, SHAPES

from ollmlx.errors import InvalidRequest
from ollmlx.gotemplate import execute, parse

CASES = 500


@pytest.fixture(scope="module")
def go_render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that renders with Go; skips where Go is missing."""
    if (go := shutil.which("go") or shutil.which("/usr/local/go/bin/go")) is None:
        pytest.skip("Go is not installed")
    made = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).with_name("render.go")
    subprocess.run([go, "build", "-o", made, source], check=True, timeout=300, cwd=made.parent)
    return made


def by_go(program: Path, cases: list[tuple[str, Any]]) -> list[dict[str, str]]:
    lines = "".join(json.dumps({"template": source, "data": data}) + "\n" for source, data in cases)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_us(source: str, data: Any) -> str | None:
    try:
        return execute(parse(source), data)
    except InvalidRequest:
        return None


@pytest.mark.slow
def test_generated_templates_are_rendered_as_by_go(go_render: Path) -> None:
    cases: list[tuple[str, Any]] = []
    for seed in range(CASES):
        generator = Generator(seed)
        cases.append((generator.template(), generator.data()))
    answers = by_go(go_render, cases)
    wrong = {
        source: (ours, answer)
        for (source, data), answer in zip(cases, answers, strict=True)
        if (ours := by_us(source, data)) != answer.get("text")
    }
    assert wrong == {}
    rendered = sum("text" in answer for answer in answers)
    assert rendered > CASES / 3, "most cases are errors: the comparison says little"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_each_shape_of_template_is_rendered_as_by_go(go_render: Path, name: str) -> None:
    (answer,) = by_go(go_render, [(SHAPES[name], DATA)])
    assert by_us(SHAPES[name], DATA) == answer["text"]
