"""Conversations through templates in Go's language, as Ollama passes them."""

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
from ollmlx.gotemplate import GoChatTemplate, execute, parse

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "hi"}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {
    "type": "object", "properties": {"where": {"type": "string"}, "deep": {"type": "boolean"}}}}}  # fmt: skip
CALLED = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "id": "", "function": {"name": "look", "arguments": {"where": "here", "a": 1}}}]}  # fmt: skip


def test_a_template_of_messages_gets_the_conversation_and_the_tools() -> None:
    made = GoChatTemplate(SHAPES["tools"]).render(
        [SYSTEM, HI, CALLED, {"role": "tool", "content": "a chair"}], tools=[LOOK]
    )
    assert made.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n<tools>\n")
    assert '{"name":"look","description":"Looks.","parameters":{"type":"object","properties":{"where"' in made
    assert '<tool_call>\n{"name": "look", "arguments": {"where":"here","a":1}}\n</tool_call><|im_end|>' in made
    assert made.endswith("<tool_response>\na chair\n</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_a_template_of_one_round_is_repeated_and_ends_where_the_answer_begins() -> None:
    simple = "{{ if .System }}[{{ .System }}]{{ end }}<u>{{ .Prompt }}<a>{{ .Response }}</a>\n"
    turns = [SYSTEM, HI, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "and?"}]
    assert GoChatTemplate(simple).render(turns) == "[Be brief.]<u>hi<a>ho</a>\n<u>and?<a>"
    assert GoChatTemplate(simple).render(turns[:3]) == "[Be brief.]<u>hi<a>ho"


def test_a_template_without_the_answer_gets_it_at_its_end() -> None:
    turns = [HI, {"role": "assistant", "content": "ho"}, HI]
    assert GoChatTemplate("<{{ .Prompt }}>").render(turns) == "<hi>ho<hi>"


def test_neighbours_of_one_role_are_one_turn() -> None:
    made = GoChatTemplate("{{ range .Messages }}[{{ .Role }} {{ .Content }}]{{ end }}")
    assert made.render([HI, {"role": "user", "content": "you"}]) == "[user hi\n\nyou]"


def test_an_answer_at_the_end_is_left_open() -> None:
    made = GoChatTemplate(SHAPES["chatml"]).render([HI, {"role": "assistant", "content": "ho"}])
    assert made.endswith("<|im_start|>assistant\nho")


@pytest.mark.parametrize(("think", "end"), [(None, ""), (True, ""), (False, "<think>\n\n</think>"), ("low", "")])
def test_thinking_is_switched_as_the_request_says(think: bool | str | None, end: str) -> None:
    assert GoChatTemplate(SHAPES["thinking"]).render([HI], think=think) == f"<|user|>hi<|assistant|>{end}"


def test_the_text_of_a_gap() -> None:
    made = GoChatTemplate(SHAPES["insert"])
    assert made.fill("a", "b") == "<fim_prefix>a<fim_suffix>b<fim_middle>"
    assert {"suffix", "prompt"} <= made.names


def test_the_properties_of_a_tool_and_the_tools_as_text() -> None:
    made = GoChatTemplate(SHAPES["properties"] + "{{ .Messages | len }}").render([HI], tools=[LOOK])
    assert made == "look(deep: boolean, where: string, ) // Looks.1"
    assert (
        GoChatTemplate("{{ .Tools }}{{ len .Messages }}").render([HI], tools=[LOOK]).startswith('[{"type":"function"')
    )


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
