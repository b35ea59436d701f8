"""The guards fail tests that leak, and only those: one inner pytest run over small tests, each named for its leak."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ollmlx.errors import Conflict, InvalidRequest
from ollmlx.testing.scaffold import KINDS, write_plugin

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from ollmlx.testing import guards
guards.GRACE = 2.0
pytest_plugins = ["ollmlx.testing.guards"]

@pytest.fixture(autouse=True)
def guarded(no_leaks): ...
"""

INNER = """
import asyncio, os, signal, socket, subprocess, sys
import psutil, pytest
from ollmlx.testing import wait_until
KEPT = []

@pytest.fixture(scope="module")
def server():
    command = ["/bin/sh", "-c", "while read line; do sleep 600 & done"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as started:
        yield started
        os.killpg(started.pid, signal.SIGKILL)

def test_leaks_a_process():
    KEPT.append(subprocess.Popen(["sleep", "600"]))
def test_leaks_a_zombie():
    KEPT.append(subprocess.Popen(["true"]))
def test_leaks_an_orphan():
    subprocess.run(["/bin/sh", "-c", "sleep 600 & exit 0"], stdout=subprocess.DEVNULL)
def test_leaks_sockets():
    KEPT.extend(socket.socketpair())
def test_leaks_a_variable():
    os.environ["LEAK"] = "1"
def test_leaks_a_directory(tmp_path):
    os.chdir(tmp_path)
async def test_leaks_a_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(600)))

def test_waits_for_its_process():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
def test_has_an_orphan_that_ends():
    subprocess.run(["/bin/sh", "-c", "sleep 0.1 & exit 0"], stdout=subprocess.DEVNULL)
def test_has_a_shared_server_start_a_process(server):
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    server.stdin.write("go\\n")
    server.stdin.flush()
    wait_until(lambda: psutil.Process(server.pid).children())
def test_closes_its_sockets():
    for end in socket.socketpair():
        end.close()
def test_patches_its_surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("FINE", "1")
    monkeypatch.chdir(tmp_path)
async def test_awaits_its_tasks():
    await asyncio.gather(asyncio.sleep(0))
"""

COMPLAINTS = {
    "a_process": r"left processes behind: \d+ \(sleeping\)",
    "a_zombie": r"left processes behind: \d+ \(zombie\)",
    "an_orphan": r"left processes behind: \d+ \(sleeping\) sleep 600",
    "sockets": "left 2 sockets or pipes open",
    "a_variable": "changed the environment: LEAK",
    "a_directory": "changed the working directory",
    "a_task": "left tasks running",
}


def test_exactly_the_tests_that_leak_fail(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "400")
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(INNER)
    result = pytester.runpytest_subprocess("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "--tb=no")
    result.assert_outcomes(passed=13, errors=len(COMPLAINTS))
    complaints = dict(re.findall(r"ERROR \S+::test_leaks_(\w+) - (.*)", result.stdout.str()))
    assert complaints.keys() == COMPLAINTS.keys()
    for leak, complaint in COMPLAINTS.items():
        assert re.search(complaint, complaints[leak]), complaints[leak]


@pytest.mark.parametrize("name", ["", "My", "my_store", "-x", "x-", "../x", "x" * 41, "1x", "a b"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="plugin name"):
        write_plugin(name, "store", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        write_plugin("mine", "engine", tmp_path)
    assert refused.value.hint == f"use one of: {', '.join(KINDS)}"


def test_nothing_is_overwritten_and_no_name_is_taken_twice(tmp_path: Path) -> None:
    write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="exists"):
        write_plugin("mine", "store", tmp_path)
    with pytest.raises(Conflict, match="already"):
        write_plugin("hub", "store", tmp_path)


def test_what_is_written_has_clean_code(tmp_path: Path) -> None:
    """That it passes its own tests, installed, is seen in tests/e2e/test_third_party.py."""
    for kind in KINDS:
        write_plugin(f"my-{kind}", kind, tmp_path)
    rules = ["--isolated", "--no-cache", "--line-length", "120", "--select", "E,F,I,UP,B,RUF100"]
    argv = [sys.executable, "-m", "ruff", "check", *rules, "."]
    for top in tmp_path.iterdir():
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=top, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
