"""The command line without a running daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e


@pytest.fixture
def home(tmp_path: Path, free_port: int) -> Iterator[Daemon]:
    """The settings of a daemon that is not running, in a folder with a space. The daemon of a test is stopped."""
    settings = {"server": {"host": f"127.0.0.1:{free_port}"}}
    unstarted = Daemon(tmp_path / "my models", settings=settings, fakes={"parrot": {}})
    yield unstarted
    lock = unstarted.state / "ollmlx.lock"
    if lock.exists() and lock.read_text().strip():
        daemon = psutil.Process(int(lock.read_text()))
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


def ollmlx(home: Daemon, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ollmlx", "--config", str(home.config), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=cwd or home.folder,
        env=home.environment,
    )


def test_run_starts_the_daemon_which_stays_and_serves_the_next_command(home: Daemon, tmp_path: Path) -> None:
    first = ollmlx(home, "run", "parrot", "hello", "there")
    assert (first.returncode, first.stdout) == (0, "hello there\n"), first.stderr
    assert "Starting the ollmlx daemon" in first.stderr
    second = ollmlx(home, "run", "parrot", "again", cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, "again\n", "")
    assert "parrot:latest" in ollmlx(home, "ps").stdout
    assert ollmlx(home, "stop", "parrot").returncode == 0
    wait_until(lambda: "parrot" not in ollmlx(home, "ps").stdout)
    assert "parrot" in ollmlx(home, "logs", "parrot").stdout


def test_a_daemon_that_cannot_start_says_why(home: Daemon) -> None:
    home.config.write_text("[server]\nhosst = 1\n")
    done = ollmlx(home, "run", "--host", "127.0.0.1:1", "parrot", "hello")
    assert done.returncode == 2
    assert "did you mean 'host'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_for_one_state_folder_is_refused(home: Daemon) -> None:
    assert ollmlx(home, "run", "parrot", "hello").returncode == 0
    second = ollmlx(home, "serve", "--host", "127.0.0.1:0")
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert "Traceback" not in second.stderr
