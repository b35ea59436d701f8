"""Processes of a command end with it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from ollmlx.supervisor.process.guarded import guarded_group
from ollmlx.testing.waiting import wait_until

COMMAND = """
import subprocess, sys, time
from ollmlx.supervisor.process.guarded import guarded_group
child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600"], start_new_session=True)
with guarded_group(child.pid):
    print(child.pid, flush=True)
    time.sleep(600)
"""


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_even_one_that_ignores_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        command.kill()
    wait_until(lambda: not _runs(pid))


def test_outside_of_the_context_the_process_lives_on() -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        with guarded_group(child.pid):
            pass
        assert child.poll() is None
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
