"""The command line without a running daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import stop_daemon_of

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e


@pytest.fixture
def home(tmp_path: Path, free_port: int) -> Iterator[Daemon]:
    """The settings of a daemon that is not running, in a folder with a space. The daemon of a test is stopped."""
    unstarted = Daemon(tmp_path / "my models", fakes={"parrot": {}})
    unstarted.url = f"http://127.0.0.1:{free_port}"
    yield unstarted
    stop_daemon_of(unstarted.state)


def ollmlx(home: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return home.cli("--config", str(home.config), *arguments)


def test_run_starts_the_daemon_which_stays_and_serves_the_next_command(home: Daemon) -> None:
    first = ollmlx(home, "run", "parrot", "hello", "there")
    assert (first.returncode, first.stdout) == (0, "hello there\n"), first.stderr
    assert "Starting the ollmlx daemon" in first.stderr
    second = ollmlx(home, "run", "parrot", "again")
    assert (second.returncode, second.stdout, second.stderr) == (0, "again\n", "")
    assert "parrot:latest" in ollmlx(home, "ps").stdout
    assert ollmlx(home, "stop", "parrot").returncode == 0
    wait_until(lambda: "parrot" not in ollmlx(home, "ps").stdout)
    assert "parrot" in ollmlx(home, "logs", "parrot").stdout
    assert ollmlx(home, "serve", "--stop").returncode == 0
    gone = ollmlx(home, "serve", "--stop")
    assert (gone.returncode, "no daemon runs" in gone.stderr) == (1, True)


def test_a_daemon_that_cannot_start_says_why(home: Daemon) -> None:
    home.config.write_text("[server]\nhosst = 1\n")
    done = ollmlx(home, "run", "--host", "127.0.0.1:1", "parrot", "hello")
    assert done.returncode == 2
    assert "did you mean 'host'" in done.stderr
    assert "Traceback" not in done.stderr
