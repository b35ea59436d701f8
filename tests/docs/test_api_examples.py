"""The examples of docs/api.md say what a daemon says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ollmlx.testing.daemon import Daemon
from ollmlx_ollama_api.options import TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
HOME = "http://127.0.0.1:11434"


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
    started = Daemon(tmp_path_factory.mktemp("api"), fakes={"parrot": {}})
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.mark.e2e
@pytest.mark.parametrize(("command", "output"), examples(), ids=lambda text: text[:60])
def test_an_example_prints_what_the_page_shows(parrot: Daemon, command: str, output: str) -> None:
    program, silent, url, *rest = shlex.split(command)
    assert (program, silent) == ("curl", "-s")
    assert url.startswith(HOME)
    url = url.replace(HOME, parrot.url)
    if rest:
        assert rest[0] == "-d"
        form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl says
        answer = httpx2.post(url, content=rest[1], headers=form, timeout=120)
    else:
        answer = httpx2.get(url, timeout=120)
    pattern = r"[^\n]*?".join(re.escape(piece) for piece in output.strip().split("..."))
    assert re.fullmatch(pattern, answer.text.strip()), answer.text


def test_every_option_is_on_the_page() -> None:
    told = set(re.findall(r"`([a-z_]+)`", PAGE.partition("### Options")[2]))
    assert TYPES.keys() <= told
