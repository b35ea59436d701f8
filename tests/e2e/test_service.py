"""`ollmlx service` under a real systemd of one person, in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.e2e.helpers import asking

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e

MANAGER = Path("/lib/systemd/systemd")
BOOTED = "mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system && exec /lib/systemd/systemd --user"
"""systemd runs for a person only where `/run/systemd/system` says that it booted the machine."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a session that a systemd manages. Skips where none can run."""
    if not MANAGER.exists() or shutil.which("unshare") is None:
        pytest.skip("systemd and unshare are not installed")
    with tempfile.TemporaryDirectory() as runtime:  # short: it holds sockets
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": runtime,
            "OLLMLX_CONFIG": str(tmp_path / "ollmlx.toml"),
        }
        root = [] if os.getuid() == 0 else ["--map-root-user"]
        with (tmp_path / "systemd.log").open("wb") as log:
            manager = subprocess.Popen(
                ["unshare", "--mount", *root, "sh", "-c", BOOTED], env=environment, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: manager.poll() is not None or Path(runtime, "systemd", "private").exists())
            if manager.poll() is not None:
                pytest.skip(f"systemd does not run here: {(tmp_path / 'systemd.log').read_text('utf-8', 'replace')}")
            yield environment
        finally:
            manager.terminate()
            manager.wait()


def service(session: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ollmlx", "service", *words]
    return subprocess.run(
        command, env=session, cwd=session["HOME"], capture_output=True, text=True, check=False, timeout=120
    )


def pid(url: str) -> int:
    return int(httpx2.get(f"{url}/api/daemon").json()["pid"])


def test_a_service_returns_after_a_crash_and_drains_when_it_is_restarted(
    session: dict[str, str], free_port: int
) -> None:
    # the folder, settings and address of a daemon that systemd starts instead of the test
    server = Daemon(
        Path(session["HOME"]),
        settings={"server": {"host": f"127.0.0.1:{free_port}", "drain_timeout": 30}},
        fakes={"parrot": {"rate": 20, "tokens": 40}},
    )
    server.url = f"http://127.0.0.1:{free_port}"
    installed = service(session, "install")
    assert installed.returncode == 0, installed.stderr
    try:
        first = pid(server.url)
        os.kill(first, 9)
        wait_until(lambda: answers(server.url))
        second = pid(server.url)
        assert second != first
        with asking(server, "parrot", "a") as arrived:
            wait_until(lambda: arrived)
            assert service(session, "restart").returncode == 0
            wait_until(lambda: '"done":true' in "".join(map(str, arrived)))
        assert pid(server.url) != second
        status = service(session, "status")
        assert status.stdout.startswith("service  active (running), enabled"), status.stdout + status.stderr
        assert "answers" in status.stdout.splitlines()[1]
    finally:
        removed = service(session, "uninstall")
    assert removed.returncode == 0, removed.stderr
    assert not answers(server.url)
    assert not list(Path(session["HOME"]).rglob("ollmlx.service"))


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/livez").status_code == 200
    except httpx2.HTTPError:
        return False
