"""Claude Code, the real program, on a model that follows a play: what it leaves on the disk is what counts."""

from __future__ import annotations

import json
import re

import pytest
from tests.e2e.agents import FIXED, PROMPT, RUN_TESTS, SUMMARY, Stage, Step, call, reading

pytestmark = [pytest.mark.e2e, pytest.mark.agents]

PRINT = ("--dangerously-skip-permissions", "-p", PROMPT)


def edit(old: str, new: str) -> Step:
    return call("Edit", file_path="$HERE/calc.py", old_string=f"return {old}", new_string=f"return {new}")


def shell(command: str) -> Step:
    return call("Bash", command=command, description="Run it")


READ = call("Read", file_path="$HERE/calc.py")


def page(number: int) -> Step:
    return call("Read", file_path="$HERE/large.txt", offset=number * 400 + 1, limit=400)


def test_it_edits_fails_a_test_looks_and_mends(agents: Stage) -> None:
    project = agents.project(
        "editor",
        [
            {"calls": [READ]},
            {"when": "return a - b", "think": "A bug.", "say": "I change it.", "calls": [edit("a ? b", "a * b")]},
            {"when": "Error: .*not found", "calls": [edit("a - b", "a * b")]},
            {"when": "updated", "calls": [shell(RUN_TESTS)]},
            {
                "when": "FAILED",
                "calls": [call("Read", file_path="$HERE/picture.png"), shell("cat test_calc.py")],
            },
            {"when": r"(?s)\[image\].*assertEqual", "calls": [edit("a * b", "a + b")]},
            {"when": "updated", "calls": [shell(RUN_TESTS)]},
            {"when": "OK", "say": "Done: it adds."},
        ],
    )
    done = agents.launch("claude", "editor", project, *PRINT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Done: it adds.\n"


def test_its_instructions_are_cached_from_one_start_to_the_next(agents: Stage) -> None:
    project = agents.project("starter", [{"say": "First."}, {"say": "Second."}])
    counts: list[list[int]] = []
    for said in ("First.", "Second."):
        done = agents.launch("claude", "starter", project, *PRINT)
        assert done.stdout == f"{said}\n", done.stderr
        lines = [line for line in agents.daemon.log_text.splitlines() if "POST /v1/messages 200" in line]
        (line,) = [line for line in lines if "model=starter" in line][len(counts) :]
        counts.append([int(found) for found in re.findall(r"(?:prompt|cached)_tokens=(\d+)", line)])
    (prompt, _), (again, cached) = counts
    assert prompt > 5000
    assert cached >= again * 0.99, "what changes with every start is left out of the prompt"


def test_an_answer_cut_by_length_is_continued(agents: Stage) -> None:
    project = agents.project(
        "cutter",
        [
            {"calls": [READ]},
            {"when": "return a - b", "say": "I will now", "cut": True},
            {"when": "token limit", "calls": [edit("a - b", "a + b")]},
            {"when": "updated", "say": "Done."},
        ],
    )
    # Settings of the person's own, which would send it elsewhere, do not count for this start and stay as they are.
    own = agents.home / ".claude" / "settings.json"
    own.parent.mkdir(exist_ok=True)
    own.write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_MODEL": "other"}}))
    before = own.read_text()
    done = agents.launch("claude", "cutter", project, *PRINT)
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
            {"when": "updated", "say": "Done."},
        ],
    )
    done = agents.launch("claude", "reader", project, *PRINT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert (done.returncode, done.stdout) == (0, "Done.\n"), done.stderr


def test_the_doctor_lets_it_mend_a_project(agents: Stage) -> None:
    change = call("Edit", file_path="calc.py", old_string="a - b", new_string="a + b")
    trial: list[Step] = [
        {"calls": [shell(RUN_TESTS), call("Read", file_path="calc.py")]},
        {"when": "a - b", "calls": [change]},
        {"when": "updated", "calls": [shell(RUN_TESTS)]},
        {"when": "OK", "say": "Done."},
    ]
    status, report, progress = agents.doctor("claude", "mender", trial)
    assert (status, report["findings"]) == (0, []), progress
