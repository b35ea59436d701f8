"""Clients from npm, unchanged, on Node: each file of `tests/clients/npm` is a test program of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.clients.packages import NPM, node_modules

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon
from ollmlx_pypi.source import cache_folder

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

PROGRAMS = sorted(NPM.glob("*.test.mjs"))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in a folder where Node finds their packages."""
    packages = node_modules(cache_folder() / "tests")
    folder = tmp_path_factory.mktemp("npm")
    for program in PROGRAMS:
        shutil.copy(program, folder)
    (folder / "node_modules").symlink_to(packages, target_is_directory=True)
    return folder


@pytest.mark.parametrize("program", [path.name for path in PROGRAMS])
def test_every_check_of_the_client_passes_and_leaves_nothing_running(
    programs: Path, daemon_with_fakes: Daemon, program: str
) -> None:
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=tap", program],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "URL": daemon_with_fakes.url},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = (programs / program).read_text(encoding="utf-8").count("\ntest(")
    assert f"\n# pass {written}\n" in ran.stdout
    wait_until(daemon_with_fakes.idle)
