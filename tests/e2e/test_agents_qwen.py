"""Qwen Code, the real program, on a model that follows a play: what it leaves on the disk is what counts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest
from tests.clients.packages import qwen_program
from tests.e2e.agents import CALC, FIXED, PROMPT, RUN_TESTS, Stage, Step, call, stage

from ollmlx_pypi.source import cache_folder

pytestmark = [pytest.mark.e2e, pytest.mark.agents]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running stage with Qwen Code, which brings 120 MB of its own."""
    if os.environ.get("TEST_AGENTS") != "all":
        pytest.skip("make test-agents runs it")
    program = qwen_program(cache_folder() / "tests")
    made = stage(tmp_path_factory.mktemp("qwen"))
    (made.programs / "qwen").symlink_to(program)
    with made.daemon:
        yield made


def edit(old: str, new: str) -> Step:
    return call("edit", file_path="$HERE/calc.py", old_string=f"return {old}", new_string=f"return {new}")


def shell(command: str) -> Step:
    return call("run_shell_command", command=command, is_background=False)


def page(number: int) -> Step:
    return call("read_file", file_path="$HERE/large.txt", offset=number * 400, limit=400)


READ = call("read_file", file_path="$HERE/calc.py")
READING = r"(?s)^(?!.*state_snapshot).*brown fox"
SUMMARY: Step = {
    "when": "state_snapshot",
    "say": "<state_snapshot>In calc.py, a - b must be a + b.</state_snapshot>",
}


def test_it_edits_fails_a_test_looks_and_mends(qwen: Stage) -> None:
    project = qwen.project(
        "editor",
        [
            {"calls": [READ]},
            {"when": "return a - b", "think": "A bug.", "say": "I change it.", "calls": [edit("a ? b", "a * b")]},
            {"when": "0 occurrences|could not find|not found", "calls": [edit("a - b", "a * b")]},
            {"when": r"a \* b", "calls": [shell(RUN_TESTS)]},
            {"when": "FAILED", "calls": [call("read_file", file_path="$HERE/picture.png"), shell("cat test_calc.py")]},
            {"when": r"(?s)(?=.*assertEqual)(?=.*\[image\])", "calls": [edit("a * b", "a + b")]},
            {"when": r"a \+ b", "calls": [shell(RUN_TESTS)]},
            {"when": "OK", "say": "Done: it adds."},
        ],
    )
    done = qwen.launch("qwen", "editor", project, "--yolo", "--prompt", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert "Done: it adds." in done.stdout


def test_settings_of_the_person_stay_and_an_answer_cut_by_length_can_be_continued(qwen: Stage) -> None:
    project = qwen.project(
        "cutter",
        [
            {"calls": [READ]},
            {"when": "return a - b", "say": "I will now", "cut": True},
            {"when": "Go on", "calls": [READ]},  # it edits only what it has read since it was started
            {"when": "return a - b", "calls": [edit("a - b", "a + b")]},
            {"when": r"a \+ b", "say": "Done."},
        ],
    )
    own = qwen.home / ".qwen" / "settings.json"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(json.dumps({"$version": 6, "model": {"name": "other"}}))
    before = own.read_text()
    cut = qwen.launch("qwen", "cutter", project, "--yolo", "--prompt", PROMPT)
    assert "I will now" in cut.stdout, cut.stderr
    assert (project / "calc.py").read_text() == CALC
    done = qwen.launch("qwen", "cutter", project, "--continue", "--yolo", "--prompt", "Go on.")
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert (done.returncode, json.loads(own.read_text())["model"]) == (0, json.loads(before)["model"]), done.stderr


def test_it_compacts_a_conversation_that_grows_too_long_and_finishes(qwen: Stage) -> None:
    project = qwen.project(
        "reader",
        [
            {"calls": [READ]},
            {"when": "return a - b", "calls": [page(0)]},
            *({"when": READING, "optional": True, "calls": [page(number)]} for number in range(1, 15)),
            SUMMARY,
            {"calls": [READ]},
            {"when": "return a - b", "calls": [edit("a - b", "a + b")]},
            {"when": r"a \+ b", "say": "Done."},
        ],
    )
    done = qwen.launch("qwen", "reader", project, "--yolo", "--prompt", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names the folder")
def test_the_doctor_lets_it_mend_a_project(qwen: Stage) -> None:
    here = "/proc/self/cwd/calc.py"  # it takes absolute paths only, and the folder is one that the play cannot know
    change = call("edit", file_path=here, old_string="a - b", new_string="a + b")
    trial: list[Step] = [
        {"calls": [shell(RUN_TESTS), call("read_file", file_path=here)]},
        {"when": "a - b", "calls": [change]},
        {"when": r"a \+ b", "calls": [shell(RUN_TESTS)]},
        {"when": "OK", "say": "Done."},
    ]
    status, report, progress = qwen.doctor("qwen", "mender", trial)
    assert (status, report["findings"]) == (0, []), progress
