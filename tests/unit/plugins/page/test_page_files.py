"""The files of the page: what is served, with which headers, to whom; their size; that the sources make them."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from quart import Quart
from tests.clients.packages import node_modules

from ollmlx.settings import Settings
from ollmlx.testing.routes import FakeService, web_app
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_page.routes import FILES, HOME, page_files
from ollmlx_page.routes import blueprint as page
from ollmlx_pypi.source import cache_folder

ROOT = Path(__file__).parents[4]
FIRST_VIEW = ("index.html", "index.js", "index.css", "icon.svg")
LARGEST_FIRST_VIEW = 200_000
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
KEY = {"security": {"api_keys": ["sesame"]}}


def web(**settings: Any) -> Quart:
    return web_app(FakeService(settings=Settings.model_validate(settings)), ollama, page)


async def test_a_browser_is_sent_from_the_root_to_the_page_and_other_clients_are_greeted() -> None:
    client: Any = web().test_client()
    sent = await client.get("/", headers=BROWSER)
    assert (sent.status_code, sent.headers["Location"]) == (303, HOME)
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json, text/plain, */*"}):
        greeted = await client.get("/", headers=accept)
        assert (greeted.status_code, await greeted.get_data()) == (200, b"Ollama is running")


async def test_without_the_page_a_browser_is_greeted_too() -> None:
    client: Any = web_app(FakeService(), ollama).test_client()
    assert (await client.get("/", headers=BROWSER)).status_code == 200


async def test_each_file_is_served_with_its_type_and_no_browser_guesses_another() -> None:
    client: Any = web().test_client()
    types = {
        ".html": "text/html",
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".txt": "text/",
    }
    for path, file in page_files(FILES).items():
        answer = await client.get(path)
        assert (answer.status_code, await answer.get_data()) == (200, file.content)
        assert answer.content_type.startswith(types[Path(path).suffix or ".html"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_policy_permits_no_other_host_no_script_of_a_text_and_no_frame() -> None:
    client: Any = web().test_client()
    rules = dict(rule.split(" ", 1) for rule in (await client.get(HOME)).headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert {word for rule in rules.values() for word in rule.split()} == {"'none'", "'self'", "data:", "blob:"}


def test_the_page_has_no_script_or_style_of_its_own_and_names_no_other_host() -> None:
    text = (FILES / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == [""]
    assert not re.search(r"<style|\son\w+=|style=|https?://", text)


async def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    client: Any = web().test_client()
    first = await client.get(f"{HOME}index.js")
    again = await client.get(f"{HOME}index.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, await again.get_data()) == (304, b"")


@pytest.mark.parametrize(
    "path", ["nothing.js", "../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "/etc/passwd", ""]
)
async def test_only_the_built_files_are_served(path: str) -> None:
    client: Any = web().test_client()
    answer = await client.get(f"{HOME}{path}")
    assert answer.status_code in (404, 308) or path == ""
    assert b"Blueprint" not in await answer.get_data()


async def test_the_files_need_no_key_and_everything_that_the_page_asks_for_does() -> None:
    client: Any = web(**KEY).test_client()
    for path in page_files(FILES):
        assert (await client.get(path)).status_code == 200, path
    for path in ("/api/tags", "/api/ps", f"{HOME}../api/tags", f"{HOME}nothing.js", "/uix"):
        assert (await client.get(path)).status_code == 401, path
    assert (await client.get("/api/tags", headers={"Authorization": "Bearer sesame"})).status_code == 200


def test_the_first_view_is_small() -> None:
    sizes = {name: len(gzip.compress((FILES / name).read_bytes())) for name in FIRST_VIEW}
    assert sum(sizes.values()) <= LARGEST_FIRST_VIEW, sizes


def test_the_licence_of_each_package_that_the_sources_import_is_served() -> None:
    sources = "".join(file.read_text("utf-8") for file in (ROOT / "page/src").rglob("*.js*"))
    imported = {name.split("/")[0] for name in re.findall(r'(?:from |import\(|import )"([^."][^"]*)"', sources)}
    named = dict(re.findall(r"^(\S+) [\d.]+: (.+)$", (FILES / "licences.txt").read_text("utf-8"), re.MULTILINE))
    assert imported >= {"preact", "marked", "dompurify", "highlight.js", "katex"}
    assert imported - set(named) == set()
    assert set(named.values()) <= {"MIT", "BSD-3-Clause", "(MPL-2.0 OR Apache-2.0)"}, "pyproject.toml has the licences"


@pytest.mark.clients
def test_the_sources_make_exactly_the_files_that_are_served(tmp_path: Path) -> None:
    packages = node_modules(cache_folder() / "tests", ROOT / "page")
    sources = tmp_path / "page"
    shutil.copytree(ROOT / "page", sources, ignore=shutil.ignore_patterns("node_modules"))
    (sources / "node_modules").symlink_to(packages, target_is_directory=True)
    built = tmp_path / "built"
    ran = subprocess.run(
        ["node", "node_modules/vite/bin/vite.js", "build"],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OUT": str(built)},
    )
    assert ran.returncode == 0, ran.stderr
    made, served = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (built, FILES))
    assert made.keys() == served.keys()
    assert [name for name in made if made[name] != served[name]] == [], "npm run build in page/"
