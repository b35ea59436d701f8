"""Codex, the real program, on a model that follows a play: what it leaves on the disk is what counts."""

from __future__ import annotations

import pytest
from tests.e2e.agents import CALC, FIXED, PROMPT, RUN_TESTS, SUMMARY, Stage, Step, call, reading

pytestmark = [pytest.mark.e2e, pytest.mark.agents]

EXEC = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")


def shell(command: str) -> Step:
    return call("exec_command", cmd=command)


def patch(old: str, new: str) -> Step:
    body = f"@@\n def add(a, b):\n-    return {old}\n+    return {new}\n"
    return call("apply_patch", input=f"*** Begin Patch\n*** Update File: calc.py\n{body}*** End Patch\n")


def test_it_edits_fails_a_test_looks_and_mends(agents: Stage) -> None:
    project = agents.project(
        "editor",
        [
            {"calls": [shell("cat calc.py")]},
            {"when": "return a - b", "think": "A bug.", "say": "I change it.", "calls": [patch("a ? b", "a * b")]},
            {"when": "Failed to find expected lines", "calls": [patch("a - b", "a * b")]},
            {"when": "Success", "calls": [shell(RUN_TESTS)]},
            {"when": "FAILED", "calls": [call("view_image", path="$HERE/picture.png"), shell("cat test_calc.py")]},
            {"when": r"(?s)\[image\].*assertEqual", "calls": [patch("a * b", "a + b")]},
            {"when": "Success", "calls": [shell(RUN_TESTS)]},
            {"when": "OK", "say": "Done: it adds."},
        ],
    )
    done = agents.launch("codex", "editor", project, *EXEC, PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stderr
    assert done.returncode == 0, done.stderr
    assert "Done: it adds." in done.stdout
    assert "metadata" not in done.stderr  # it knows the model from its catalogue


def test_an_answer_cut_by_length_is_an_error_and_the_conversation_can_go_on(agents: Stage) -> None:
    project = agents.project(
        "cutter",
        [
            {"calls": [shell("cat calc.py")]},
            {"when": "return a - b", "say": "I will now", "cut": True},
            {"when": "Go on", "calls": [patch("a - b", "a + b")]},
            {"when": "Success", "say": "Done."},
        ],
    )
    # A configuration of the person's own, which would send it elsewhere, does not count, and stays as it is.
    own = agents.home / ".codex" / "config.toml"
    own.parent.mkdir(exist_ok=True)
    own.write_text('model = "other"\nmodel_provider = "openai"\nmodel_context_window = 1000\n')
    before = own.read_text()
    cut = agents.launch("codex", "cutter", project, *EXEC, PROMPT)
    assert cut.returncode == 1, cut.stderr
    assert "max_output_tokens" in cut.stderr
    assert (project / "calc.py").read_text() == CALC
    done = agents.launch("codex", "cutter", project, *EXEC, "resume", "--last", "Go on.")
    assert (project / "calc.py").read_text() == FIXED, done.stderr
    assert (done.returncode, own.read_text()) == (0, before), done.stderr


def test_it_compacts_a_conversation_that_grows_too_long_and_finishes(agents: Stage) -> None:
    project = agents.project(
        "reader",
        [
            {"calls": [shell("head -n 400 large.txt")]},
            *(
                reading({"calls": [shell(f"sed -n '{page * 400 + 1},{page * 400 + 400}p' large.txt")]})
                for page in range(1, 15)
            ),
            SUMMARY,
            {"when": "a - b must be a . b", "calls": [patch("a - b", "a + b")]},
            {"when": "Success", "say": "Done."},
        ],
    )
    done = agents.launch("codex", "reader", project, *EXEC, PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stderr[-4000:]
    assert done.returncode == 0
    assert "context compacted" in done.stderr


def test_the_doctor_lets_it_mend_a_project(agents: Stage) -> None:
    trial: list[Step] = [
        {"calls": [shell(RUN_TESTS)]},
        {"when": "FAILED", "calls": [patch("a - b", "a + b")]},
        {"when": "Success", "calls": [shell(RUN_TESTS)]},
        {"when": "OK", "say": "Done."},
    ]
    status, report, progress = agents.doctor("codex", "mender", trial)
    assert (status, report["findings"]) == (0, []), progress
    assert progress.count("✓") == 7


@pytest.mark.finding("RUN020")
def test_the_doctor_names_the_step_that_was_not_done_and_why(agents: Stage) -> None:
    status, report, progress = agents.doctor("codex", "talker", [{"say": "I would change the minus."}])
    (finding,) = report["findings"]
    assert (status, finding["code"]) == (1, "RUN020"), progress
    assert "not done: the model calls a tool" in finding["title"]
    assert any("I would change the minus." in line for line in finding["evidence"])
