"""opencode, the real program, on a model that follows a play: what it leaves on the disk is what counts."""

from __future__ import annotations

import json

import pytest
from tests.e2e.agents import CALC, FIXED, PROMPT, RUN_TESTS, SUMMARY, Stage, Step, call, reading

pytestmark = [pytest.mark.e2e, pytest.mark.agents]


@pytest.fixture(autouse=True)
def installed(agents: Stage) -> None:
    """Its packages for other systems than Linux on x64 are not in the lock file."""
    if not (agents.programs / "opencode").exists():
        pytest.skip("opencode is locked for Linux on x64 only")


def edit(old: str, new: str) -> Step:
    return call("edit", filePath="$HERE/calc.py", oldString=f"return {old}", newString=f"return {new}")


def shell(command: str) -> Step:
    return call("bash", command=command, description="Run it")


READ = call("read", filePath="$HERE/calc.py")


def page(number: int) -> Step:
    return call("read", filePath="$HERE/large.txt", offset=number * 400 + 1, limit=400)


def test_it_edits_fails_a_test_looks_and_mends(agents: Stage) -> None:
    project = agents.project(
        "editor",
        [
            {"calls": [READ]},
            {"when": "return a - b", "think": "A bug.", "say": "I change it.", "calls": [edit("a ? b", "a * b")]},
            {"when": "Could not find", "calls": [edit("a - b", "a * b")]},
            {"when": "applied", "calls": [shell(RUN_TESTS)]},
            {
                "when": "FAILED",
                "calls": [call("read", filePath="$HERE/picture.png"), shell("cat test_calc.py")],
            },
            {"when": r"(?s)assertEqual.*\[image\]", "calls": [edit("a * b", "a + b")]},
            {"when": "applied", "calls": [shell(RUN_TESTS)]},
            {"when": "OK", "say": "Done: it adds."},
        ],
    )
    done = agents.launch("opencode", "editor", project, "run", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert "Done: it adds." in done.stdout


def test_it_ends_at_an_answer_cut_by_length_and_the_conversation_can_go_on(agents: Stage) -> None:
    project = agents.project(
        "cutter",
        [
            {"calls": [READ]},
            {"when": "return a - b", "say": "I will now", "cut": True},
            {"when": "Go on", "calls": [edit("a - b", "a + b")]},
            {"when": "applied", "say": "Done."},
        ],
    )
    # A configuration of the person's own, which would send it elsewhere, does not count, and stays as it is.
    own = agents.home / ".config" / "opencode" / "opencode.json"
    own.parent.mkdir(parents=True, exist_ok=True)
    stated = {"$schema": "https://opencode.ai/config.json", "model": "openai/other", "small_model": "openai/other"}
    own.write_text(json.dumps(stated))
    before = own.read_text()
    cut = agents.launch("opencode", "cutter", project, "run", PROMPT)
    assert "I will now" in cut.stdout, cut.stderr
    assert (project / "calc.py").read_text() == CALC
    done = agents.launch("opencode", "cutter", project, "run", "--continue", "Go on.")
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert (done.returncode, own.read_text()) == (0, before), done.stderr


def test_it_compacts_a_conversation_that_grows_too_long_and_finishes(agents: Stage) -> None:
    project = agents.project(
        "reader",
        [
            {"calls": [READ]},
            {"when": "return a - b", "calls": [page(0)]},
            *(reading({"calls": [page(number)]}) for number in range(1, 15)),
            SUMMARY,
            {"calls": [edit("a - b", "a + b")]},
            {"when": "applied", "say": "Done."},
        ],
    )
    done = agents.launch("opencode", "reader", project, "run", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_the_doctor_lets_it_mend_a_project(agents: Stage) -> None:
    change = call("edit", filePath="calc.py", oldString="a - b", newString="a + b")
    trial: list[Step] = [
        {"calls": [shell(RUN_TESTS), call("read", filePath="calc.py")]},
        {"when": "a - b", "calls": [change]},
        {"when": "applied", "calls": [shell(RUN_TESTS)]},
        {"when": "OK", "say": "Done."},
    ]
    status, report, progress = agents.doctor("opencode", "mender", trial)
    assert (status, report["findings"]) == (0, []), progress
