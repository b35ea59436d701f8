"""A code, its page, whoever emits it: held together."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from ollmlx.cli.main import VERBS, verb_parser
from ollmlx.codes import CODES
from ollmlx.doctor.checks import OWN
from ollmlx.doctor.runbooks import HEADINGS, index, pages, title, troubleshooting
from ollmlx.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = pages()
REGENERATE = "python -c 'from ollmlx.doctor.runbooks import *; write_generated()'"


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(PAGES) == set(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_page_is_well_made(code: str) -> None:
    text = PAGES[code]
    assert text.startswith(f"# {code}: ")
    assert title(text) == CODES[code][0]
    assert f"Severity: {CODES[code][1]}" in text
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS
    assert len(text.splitlines()) <= 60


def commands() -> list[tuple[str, str]]:
    blocks = [
        (code, block) for code, text in PAGES.items() for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    ]
    lines = [(code, line.strip().removeprefix("$ ")) for code, block in blocks for line in block.splitlines()]
    return [(code, line) for code, line in lines if re.match(r"([A-Z_]+=\S* )*ollmlx\b", line)]


@pytest.mark.parametrize(("code", "line"), commands())
def test_a_command_of_a_page_is_one_the_command_line_takes(code: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[1].startswith("-"):
        return
    assert words[1] in VERBS
    parser, _ = verb_parser(words[1])
    parser.parse_intermixed_args(words[2:])


@pytest.mark.parametrize("code", [code for code, text in PAGES.items() if "```toml" in text])
def test_a_settings_block_of_a_page_is_valid(code: str) -> None:
    for block in re.findall(r"```toml\n(.*?)```", PAGES[code], re.DOTALL):
        Settings.model_validate(tomllib.loads(block))


def test_every_code_is_emitted_somewhere() -> None:
    sources = [*ROOT.glob("src/ollmlx/**/*.py"), *ROOT.glob("plugins/*/**/*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "codes.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


def test_every_code_that_a_check_declares_is_known() -> None:
    assert {code for check in OWN for code in check.codes} <= set(CODES)


def test_the_index_is_up_to_date() -> None:
    assert (ROOT / "diagnostics/README.md").read_text(encoding="utf-8") == index(PAGES), REGENERATE


def test_the_troubleshooting_page_is_up_to_date() -> None:
    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8") == troubleshooting(PAGES), REGENERATE
