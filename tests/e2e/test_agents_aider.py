"""aider, the real program, on a model that follows a play: what it leaves on the disk is what counts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.clients.packages import aider_python
from tests.e2e.agents import FIXED, PROMPT, RUN_TESTS, Stage, stage

from ollmlx_pypi.source import cache_folder

pytestmark = [pytest.mark.e2e, pytest.mark.agents]

QUIET = ("--no-git", "--no-check-update", "--analytics-disable", "--no-show-release-notes", "--yes-always")
TESTED = ("--test-cmd", RUN_TESTS, "--auto-test", "calc.py")


@pytest.fixture(scope="module")
def aider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running stage with aider, which brings 700 MB of its own."""
    if os.environ.get("TEST_AGENTS") != "all":
        pytest.skip("make test-agents runs it")
    python = aider_python(cache_folder() / "tests")
    made = stage(tmp_path_factory.mktemp("aider"))
    program = made.programs / "aider"
    program.write_text(f'#!/bin/sh\nexec "{python}" -m aider "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    with made.daemon:
        yield made


def listing(expression: str) -> str:
    return f"calc.py\n```\ndef add(a, b):\n    return {expression}\n```\n"


def test_it_edits_fails_a_test_and_mends(aider: Stage) -> None:
    project = aider.project(
        "editor",
        [
            {"when": "Fix calc.py", "think": "A bug.", "say": f"I change it.\n\n{listing('a * b')}"},
            {"when": "FAILED", "say": f"That was wrong.\n\n{listing('a + b')}"},
        ],
    )
    done = aider.launch("aider", "editor", project, *QUIET, *TESTED, "--message", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_an_answer_cut_by_length_is_not_half_applied(aider: Stage) -> None:
    project = aider.project("cutter", [{"when": "Fix calc.py", "say": "calc.py\n```\ndef add(a", "cut": True}])
    before = (project / "calc.py").read_text()
    done = aider.launch("aider", "cutter", project, *QUIET, "calc.py", "--message", PROMPT)
    assert (project / "calc.py").read_text() == before, done.stdout


def test_the_doctor_lets_it_mend_a_project(aider: Stage) -> None:
    mended = [{"when": "mend", "say": listing("a + b")}]
    status, report, progress = aider.doctor("aider", "mender", mended)
    assert (status, report["findings"]) == (0, []), progress
