"""Access to a running daemon, and the permissions of its files."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ollmlx.settings import Settings
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e
KEY = "hush-" + "k" * 30


def open_to_others(folder: Path) -> list[str]:
    """Return the files and folders that other users of the machine can read."""
    paths = [folder, *folder.rglob("*")]
    return [f"{path} {stat.filemode(path.lstat().st_mode)}" for path in paths if path.lstat().st_mode & 0o077]


def test_it_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    assert Settings().server.host == "127.0.0.1:11434"
    assert not Settings().security.allow_no_auth


def test_strange_names_pages_and_keys_are_refused_and_nothing_is_left_open(daemon: Callable[..., Daemon]) -> None:
    settings = {"security": {"api_keys": [KEY]}, "logging": {"level": "debug"}}
    server = daemon(fakes={"parrot": {}}, settings=settings)
    key = {"Authorization": f"Bearer {KEY}"}
    asked = {
        200: key,
        401: {"Authorization": "Bearer hush-wrong"},
        403: {**key, "Host": "rebound.example.org"},
    }
    for status, headers in asked.items():
        assert server.get("/api/tags", headers=headers).status_code == status
    assert server.get("/api/tags", headers={**key, "Origin": "https://evil.example.org"}).status_code == 403
    answer = server.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False}, headers=key)
    assert answer.json()["response"] == "x"
    assert "hush-" not in server.log_text
    assert open_to_others(server.state) == []
