"""Named keys on a real daemon: taken over while it runs, counted, and remembered by the next one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import StartDaemon

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e


def ask(server: Daemon, key: str) -> Any:
    body = {"model": "parrot", "prompt": "a", "stream": False}
    return server.post("/api/generate", body, headers={"Authorization": f"Bearer {key}"})


def test_a_new_key_works_at_once_and_its_use_survives_a_restart(daemon: StartDaemon) -> None:
    server = daemon(env={"OLLMLX_SECURITY__API_KEYS": "of-the-owner"}, fakes={"parrot": {"tokens": 3}})
    made = server.cli("key", "new", "anna", "--requests-per-day", "2")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    wait_until(lambda: ask(server, key).status_code == 429)
    assert server.stop() == 0
    server.start()
    refused = ask(server, key)
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (429, True)
    assert server.cli("key", "usage").stdout.split()[-2] == "2"
    assert ask(server, "of-the-owner").status_code == 200
    assert server.cli("key", "revoke", "anna").returncode == 0
    wait_until(lambda: ask(server, key).status_code == 401)
