"""docs/api.md: its examples print a daemon's answers, and its tables have exactly the fields of the routes' bodies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ollmlx.testing.daemon import Daemon
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.web.openapi import openapi
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.options import TYPES
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai
from ollmlx_ops.routes import blueprint as ops

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = openapi(web_app(FakeService(), ollama, openai, anthropic, ops), "1")
HOME = "http://127.0.0.1:11434"
SECTION = re.compile(r"^### Fields of (.*)\n((?:(?!^#).*\n)*)", re.MULTILINE)
NAME = re.compile(r"`([^`]+)`")


def examples() -> list[tuple[str, str]]:
    """Each command of the page's console blocks, and what it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon the examples talk to."""
    with Daemon(tmp_path_factory.mktemp("api"), fakes={"parrot": {}}) as started:
        yield started


@pytest.mark.e2e
@pytest.mark.parametrize(("command", "output"), examples(), ids=lambda text: text[:60])
def test_an_example_prints_what_the_page_shows(parrot: Daemon, command: str, output: str) -> None:
    program, silent, url, *rest = shlex.split(command)
    assert (program, silent) == ("curl", "-s")
    assert url.startswith(HOME)
    url = url.replace(HOME, parrot.url)
    assert rest[:1] in ([], ["-d"])
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl says
    answer = httpx2.post(url, content=rest[1], headers=form, timeout=120) if rest else httpx2.get(url, timeout=120)
    pattern = r"[^\n]*?".join(re.escape(piece) for piece in output.strip().split("..."))
    assert re.fullmatch(pattern, answer.text.strip()), answer.text


def test_every_option_is_on_the_page() -> None:
    told = set(re.findall(r"`([a-z_]+)`", PAGE.partition("### Options")[2]))
    assert TYPES.keys() <= told


def documented() -> dict[tuple[str, ...], set[str]]:
    """Routes of a section, and the names in the first column of its table."""
    found = {}
    for heading, text in SECTION.findall(PAGE):
        cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        names = [name for cell in cells for name in NAME.findall(cell)]
        assert len(names) == len(set(names)), f"{heading}: a field is there twice"
        found[tuple(NAME.findall(heading))] = set(names)
    return found


def fields() -> dict[str, set[str]]:
    """Paths that take JSON or a form, and the names of their bodies' fields."""
    schemas = DOCUMENT["components"]["schemas"]
    found = {}
    for path, verbs in DOCUMENT["paths"].items():
        for operation in verbs.values():
            content = operation.get("requestBody", {}).get("content", {})
            body = content.get("application/json") or content.get("multipart/form-data")
            if body:
                found[path] = set(schemas[body["schema"]["$ref"].rpartition("/")[2]]["properties"])
    return found


@pytest.mark.parametrize("routes", sorted(documented()), ids=" ".join)
def test_a_table_has_exactly_the_fields_of_its_routes(routes: tuple[str, ...]) -> None:
    known = fields()
    assert documented()[routes] == set().union(*(known[route] for route in routes))


def test_every_route_with_fields_has_a_table() -> None:
    assert {route for routes in documented() for route in routes} == set(fields())


def test_every_route_is_on_the_page() -> None:
    named = PAGE.replace("/api/blobs/:digest", "/api/blobs/{digest}").replace("/v1/models/:id", "/v1/models/{name}")
    missing = [path for path in DOCUMENT["paths"] if f"`{path}`" not in named]
    assert missing == []
