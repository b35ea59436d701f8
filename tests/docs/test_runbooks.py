"""Each code has a page, an emitter and a test, and each of these has a code; for ollmlx and its plugins."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import check_command

from ollmlx.doctor.checks import OWN
from ollmlx.doctor.runbooks import HEADINGS, folder, index, page, pages, title, troubleshooting
from ollmlx.errors.findings import CODES, RETIRED
from ollmlx.settings import Settings

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[A-Z]{3}[0-9]{3}")
PAGES = pages()
PLUGIN_PAGES = pages(sorted(ROOT.glob("plugins/*/diagnostics")), own=False)
EVERY_PAGE = {**PLUGIN_PAGES, **PAGES}
REGENERATE = "python -m ollmlx.doctor.runbooks"


# -- a code and its page -----------------------------------------------------------------------------------------------


def test_a_code_has_one_page_in_all_plugins_together() -> None:
    found = [
        path.stem for folder in ("diagnostics", "plugins/*/diagnostics") for path in ROOT.glob(f"{folder}/*[0-9].md")
    ]
    assert len(found) == len(set(found))


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(PAGES) == set(CODES)


def test_a_plugin_takes_no_code_of_ollmlx() -> None:
    assert set(PLUGIN_PAGES) & set(CODES) == set()


@pytest.mark.parametrize(("old", "new"), RETIRED.items())
def test_a_retired_code_is_never_used_again_and_explains_its_successor(old: str, new: str) -> None:
    assert old not in EVERY_PAGE
    assert page(old.lower()).startswith(f"{old} is retired. ollmlx now reports {new} instead.\n\n# {new}: ")


@pytest.mark.parametrize("code", sorted(EVERY_PAGE))
def test_a_page_has_the_title_and_severity_of_its_code_and_the_fixed_headings(code: str) -> None:
    text = EVERY_PAGE[code]
    assert text.startswith(f"# {code}: ")
    if code in CODES:
        assert (title(text), f"Severity: {CODES[code][1]} " in text) == (CODES[code][0], True)
    assert re.search(r"^Severity: (error|warning|info) · Since: \d+\.\d+ · Owner: \S+$", text, re.MULTILINE)
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS
    assert len(text.splitlines()) <= 60


def commands() -> list[tuple[str, str]]:
    blocks = [
        (code, block)
        for code, text in EVERY_PAGE.items()
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    ]
    lines = [(code, line.strip().removeprefix("$ ")) for code, block in blocks for line in block.splitlines()]
    return [(code, line) for code, line in lines if re.match(r"([A-Z_]+=\S* )*ollmlx\b", line)]


@pytest.mark.parametrize(("code", "line"), commands())
def test_a_command_of_a_page_is_one_the_command_line_takes(code: str, line: str) -> None:
    check_command(line)


@pytest.mark.parametrize("code", sorted(EVERY_PAGE))
def test_a_page_has_valid_settings_and_refers_to_codes_that_exist(code: str) -> None:
    for block in re.findall(r"```toml\n(.*?)```", EVERY_PAGE[code], re.DOTALL):
        Settings.model_validate(tomllib.loads(block))
    assert {*CODE.findall(EVERY_PAGE[code])} <= set(EVERY_PAGE)


# -- a code and its emitter --------------------------------------------------------------------------------------------


def mentions(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that are emitted: not those in a decorator, a comparison or a table."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Compare):
            continue
        if isinstance(child, ast.AnnAssign) and not isinstance(child.value, ast.Constant):
            continue
        if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and child in tree.decorator_list:
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str) and CODE.fullmatch(child.value):
            yield child.value
        yield from mentions(child)


def test_every_code_is_emitted_somewhere_and_nothing_else_is() -> None:
    sources = [*ROOT.glob("src/ollmlx/**/*.py"), *ROOT.glob("plugins/*/**/*.py")]
    emitted = {
        code
        for path in sources
        if path.name != "codes.py" and "testing" not in path.parts
        for code in mentions(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert emitted == set(EVERY_PAGE)


def test_every_code_that_a_check_declares_is_known() -> None:
    assert {code for check in OWN for code in check.codes} <= set(CODES)


# -- a code and the test that provokes it ------------------------------------------------------------------------------


def marked(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Yield every code of a decorator `@pytest.mark.finding(...)`, with the decorator."""
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", ()):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.finding":
                yield from ((decorator, str(ast.literal_eval(argument))) for argument in decorator.args)


def test_every_code_is_provoked_by_a_test_that_names_it() -> None:
    provoked: set[str] = set()
    unnamed = []
    for path in ROOT.glob("tests/**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        marks = list(marked(tree))
        inside = {id(node) for call, _ in marks for node in ast.walk(call)}
        words = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside
        ]
        unnamed += [f"{path.name}: {code}" for _, code in marks if not any(code in word for word in words)]
        provoked |= {code for _, code in marks}
    assert provoked == set(EVERY_PAGE)
    assert unnamed == [], "the mark is there, and nothing in the file looks at the code"


# -- what is made from the pages ---------------------------------------------------------------------------------------


def test_the_index_and_the_troubleshooting_page_are_up_to_date() -> None:
    assert (ROOT / "diagnostics/README.md").read_text(encoding="utf-8") == index(PAGES), REGENERATE
    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8") == troubleshooting(PAGES), REGENERATE


def test_a_checkout_reads_its_own_pages() -> None:
    assert Path(str(folder())) == ROOT / "diagnostics"
