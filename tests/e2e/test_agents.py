"""Coding agents, the real programs, on models that follow plays: what an agent leaves on the disk is what counts."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.clients.packages import agent_programs, aider_python, qwen_program
from tests.e2e.agents import CALC, FIXED, PROMPT, RUN_TESTS, Stage, Step, call, reading, stage

from ollmlx_pypi.source import cache_folder

pytestmark = [pytest.mark.e2e, pytest.mark.agents]

Call = dict[str, Any]
HERE = "$HERE/calc.py"


@dataclass(frozen=True)
class Habits:
    """An agent: the calls of its tools, its options, and words of its own in what it sends to the model.

    `page`: reads a part of the large file. `differs`: said of an edit whose text is not in the file; `edited`: of one
    that was done (empty: the new text). `again`: options that continue a conversation after an answer that was cut,
    which shows `cut`; without them the agent goes on by itself, saying `cut`. `rereads`: it edits only what it has read
    since it began or compacted. `own`: the person's own settings, of which `kept` stays. `summary`: a pattern of its
    request for one, and the tag around the answer. `here`: the doctor's file.
    """

    name: str
    read: Callable[[str], Call]
    edit: Callable[[str, str, str], Call]
    shell: Callable[[str], Call]
    page: Callable[[int], Call]
    picture: Call
    run: tuple[str, ...]
    again: tuple[str, ...]
    differs: str
    edited: str
    cut: str
    own: tuple[str, dict[str, Any] | str]
    kept: Callable[[str], object] = str
    rereads: bool = False
    summary: tuple[str, str] = ("[Ss]ummar|[Hh]andoff", "summary")
    compacted: str = ""
    here: str = "calc.py"

    def after(self, new: str) -> str:
        """Return the pattern of what the agent says of an edit."""
        return self.edited or re.escape(new)

    def mending(self, path: str = HERE) -> list[Step]:
        """Return the steps that mend the file, and end."""
        edit: Step = {"calls": [self.edit(path, "a - b", "a + b")]}
        begin: list[Step] = [{"calls": [self.read(path)]}, {"when": "return a - b", **edit}] if self.rereads else [edit]
        return [*begin, {"when": self.after("a + b"), "say": "Done."}]


def patch(path: str, old: str, new: str) -> Call:
    """Return Codex's way to edit a file."""
    body = f"@@\n def add(a, b):\n-    return {old}\n+    return {new}\n"
    return call("apply_patch", input=f"*** Begin Patch\n*** Update File: calc.py\n{body}*** End Patch\n")


def replacing(tool: str, *names: str) -> Callable[[str, str, str], Call]:
    """Return a function that makes the calls of an editing tool: the names of its path, its old and its new text."""
    return lambda path, old, new: call(tool, **dict(zip(names, (path, f"return {old}", f"return {new}"), strict=True)))


CLAUDE = Habits(
    "claude",
    read=lambda path: call("Read", file_path=path),
    edit=replacing("Edit", "file_path", "old_string", "new_string"),
    shell=lambda command: call("Bash", command=command, description="Run it"),
    page=lambda number: call("Read", file_path="$HERE/large.txt", offset=number * 400 + 1, limit=400),
    picture=call("Read", file_path="$HERE/picture.png"),
    run=("--dangerously-skip-permissions", "-p", PROMPT),
    again=(),
    differs="Error: .*not found",
    edited="updated",
    cut="token limit",
    own=(".claude/settings.json", {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_MODEL": "other"}}),
)
EXEC = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
CODEX = Habits(
    "codex",
    read=lambda path: call("exec_command", cmd="cat calc.py"),
    edit=patch,
    shell=lambda command: call("exec_command", cmd=command),
    page=lambda number: call("exec_command", cmd=f"sed -n '{number * 400 + 1},{number * 400 + 400}p' large.txt"),
    picture=call("view_image", path="$HERE/picture.png"),
    run=(*EXEC, PROMPT),
    again=(*EXEC, "resume", "--last", "Go on."),
    differs="Failed to find expected lines",
    edited="Success",
    cut="max_output_tokens",
    own=(".codex/config.toml", 'model = "other"\nmodel_provider = "openai"\nmodel_context_window = 1000\n'),
    compacted="context compacted",
)
OPENCODE = Habits(
    "opencode",
    read=lambda path: call("read", filePath=path),
    edit=replacing("edit", "filePath", "oldString", "newString"),
    shell=lambda command: call("bash", command=command, description="Run it"),
    page=lambda number: call("read", filePath="$HERE/large.txt", offset=number * 400 + 1, limit=400),
    picture=call("read", filePath="$HERE/picture.png"),
    run=("run", PROMPT),
    again=("run", "--continue", "Go on."),
    differs="Could not find",
    edited="applied",
    cut="I will now",
    own=(".config/opencode/opencode.json", {"$schema": "https://opencode.ai/config.json", "model": "openai/other"}),
)
QWEN = Habits(
    "qwen",
    read=lambda path: call("read_file", file_path=path),
    edit=replacing("edit", "file_path", "old_string", "new_string"),
    shell=lambda command: call("run_shell_command", command=command, is_background=False),
    page=lambda number: call("read_file", file_path="$HERE/large.txt", offset=number * 400, limit=400),
    picture=call("read_file", file_path="$HERE/picture.png"),
    run=("--yolo", "--prompt", PROMPT),
    again=("--continue", "--yolo", "--prompt", "Go on."),
    differs="0 occurrences|could not find|not found",
    edited="",
    cut="I will now",
    own=(".qwen/settings.json", {"$version": 6, "model": {"name": "other"}}),
    kept=lambda text: json.loads(text)["model"],
    rereads=True,
    summary=("state_snapshot", "state_snapshot"),
    here="/proc/self/cwd/calc.py",  # it takes absolute paths only, and the play cannot know the doctor's folder
)


def install(agent: str, made: Stage) -> None:
    """Put the program of an agent into PATH. aider brings 700 MB, Qwen Code 120."""
    cache = cache_folder() / "tests"
    if agent in ("aider", "qwen") and os.environ.get("TEST_AGENTS") != "all":
        pytest.skip("make test-agents runs it")
    if agent == "aider":
        program = made.programs / agent
        program.write_text(f'#!/bin/sh\nexec "{aider_python(cache)}" -m aider "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    else:
        programs = {"qwen": qwen_program(cache)} if agent == "qwen" else agent_programs(cache)
        for name, path in programs.items():
            (made.programs / name).symlink_to(path)
    if not (made.programs / agent).exists():
        pytest.skip(f"{agent} is not locked for this system")


@pytest.fixture(scope="module")
def on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running stage with the agent of the test's parameter `habits`, or of this name."""
    agent: str = getattr(request.param, "name", request.param)
    made = stage(tmp_path_factory.mktemp(agent))
    install(agent, made)
    with made.daemon:
        yield made


def each(*agents: Habits) -> pytest.MarkDecorator:
    """Run a test with each of these agents, each on a stage of its own."""
    pairs = [pytest.param(agent, agent, id=agent.name) for agent in agents]
    return pytest.mark.parametrize(("on", "habits"), pairs, indirect=["on"], scope="module")


@each(CLAUDE, CODEX, OPENCODE, QWEN)
def test_it_edits_fails_a_test_looks_and_mends(on: Stage, habits: Habits) -> None:
    edit, shell = habits.edit, habits.shell
    project = on.project(
        "editor",
        [
            {"calls": [habits.read(HERE)]},
            {"when": "return a - b", "think": "A bug.", "say": "I change it.", "calls": [edit(HERE, "a ? b", "a * b")]},
            {"when": habits.differs, "calls": [edit(HERE, "a - b", "a * b")]},
            {"when": habits.after("a * b"), "calls": [shell(RUN_TESTS)]},
            {"when": "FAILED", "calls": [habits.picture, shell("cat test_calc.py")]},
            {"when": r"(?s)(?=.*assertEqual)(?=.*\[image\])", "calls": [edit(HERE, "a * b", "a + b")]},
            {"when": habits.after("a + b"), "calls": [shell(RUN_TESTS)]},
            {"when": "OK", "say": "Done: it adds."},
        ],
    )
    done = on.launch(habits.name, "editor", project, *habits.run)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert "Done: it adds." in done.stdout
    assert "metadata" not in done.stderr, "Codex knows the model from its catalogue"


@each(CLAUDE, CODEX, OPENCODE, QWEN)
def test_an_answer_cut_by_length_is_continued_and_settings_of_the_person_stay(on: Stage, habits: Habits) -> None:
    first, *others = habits.mending()
    project = on.project(
        "cutter",
        [
            {"calls": [habits.read(HERE)]},
            {"when": "return a - b", "say": "I will now", "cut": True},
            {"when": "Go on" if habits.again else habits.cut, **first},
            *others,
        ],
    )
    name, stated = habits.own
    own = on.home / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(stated if isinstance(stated, str) else json.dumps(stated))
    before = own.read_text()
    done = on.launch(habits.name, "cutter", project, *habits.run)
    if habits.again:
        assert habits.cut in done.stdout + done.stderr
        assert done.returncode == 1 or habits is not CODEX
        assert (project / "calc.py").read_text() == CALC
        done = on.launch(habits.name, "cutter", project, *habits.again)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert (done.returncode, habits.kept(own.read_text())) == (0, habits.kept(before)), done.stderr


@each(CLAUDE, CODEX, OPENCODE, QWEN)
def test_it_compacts_a_conversation_that_grows_too_long_and_finishes(on: Stage, habits: Habits) -> None:
    asked, tag = habits.summary
    begin: list[Step] = [{"calls": [habits.read(HERE)]}, {"when": "return a - b", "calls": [habits.page(0)]}]
    project = on.project(
        "reader",
        [
            *(begin if habits is not CODEX else [{"calls": [habits.page(0)]}]),  # Codex compacts after its first call
            *(reading({"calls": [habits.page(number)]}, asked) for number in range(1, 15)),
            {"when": asked, "say": f"<{tag}>In calc.py, a - b must be a + b.</{tag}>"},
            *habits.mending(),
        ],
    )
    done = on.launch(habits.name, "reader", project, *habits.run)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr[-4000:]
    assert done.returncode == 0, done.stderr
    assert habits.compacted in done.stderr


@each(CLAUDE, CODEX, OPENCODE, QWEN)
def test_the_doctor_lets_it_mend_a_project(on: Stage, habits: Habits) -> None:
    if habits.here.startswith("/proc") and sys.platform != "linux":
        pytest.skip("/proc names the folder")
    trial: list[Step] = [
        {"calls": [habits.shell(RUN_TESTS), habits.read(habits.here)]},
        {"when": "a - b", "calls": [habits.edit(habits.here, "a - b", "a + b")]},
        {"when": habits.after("a + b"), "calls": [habits.shell(RUN_TESTS)]},
        {"when": "OK", "say": "Done."},
    ]
    status, report, progress = on.doctor(habits.name, "mender", trial)
    assert (status, report["findings"]) == (0, []), progress
    assert progress.count("✓") == 7


@each(CLAUDE)
def test_its_instructions_are_cached_from_one_start_to_the_next(on: Stage, habits: Habits) -> None:
    project = on.project("starter", [{"say": "First."}, {"say": "Second."}])
    counts: list[list[int]] = []
    for said in ("First.", "Second."):
        done = on.launch(habits.name, "starter", project, *habits.run)
        assert done.stdout == f"{said}\n", done.stderr
        lines = [line for line in on.daemon.log_text.splitlines() if "POST /v1/messages 200" in line]
        (line,) = [line for line in lines if "model=starter" in line][len(counts) :]
        counts.append([int(found) for found in re.findall(r"(?:prompt|cached)_tokens=(\d+)", line)])
    (prompt, _), (again, cached) = counts
    assert prompt > 5000
    assert cached >= again * 0.99, "what changes with every start is left out of the prompt"


@pytest.mark.finding("RUN020")
@each(CODEX)
def test_the_doctor_names_the_step_that_was_not_done_and_why(on: Stage, habits: Habits) -> None:
    status, report, progress = on.doctor(habits.name, "talker", [{"say": "I would change the minus."}])
    (finding,) = report["findings"]
    assert (status, finding["code"]) == (1, "RUN020"), progress
    assert "not done: the model calls a tool" in finding["title"]
    assert any("I would change the minus." in line for line in finding["evidence"])


AIDER = pytest.mark.parametrize("on", ["aider"], indirect=True, scope="module")
QUIET = ("--no-git", "--no-check-update", "--analytics-disable", "--no-show-release-notes", "--yes-always")
TESTED = ("--test-cmd", RUN_TESTS, "--auto-test", "calc.py")


def listing(expression: str) -> str:
    return f"calc.py\n```\ndef add(a, b):\n    return {expression}\n```\n"


@AIDER
def test_aider_edits_fails_a_test_and_mends(on: Stage) -> None:
    project = on.project(
        "editor",
        [
            {"when": "Fix calc.py", "think": "A bug.", "say": f"I change it.\n\n{listing('a * b')}"},
            {"when": "FAILED", "say": f"That was wrong.\n\n{listing('a + b')}"},
        ],
    )
    done = on.launch("aider", "editor", project, *QUIET, *TESTED, "--message", PROMPT)
    assert (project / "calc.py").read_text() == FIXED, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


@AIDER
def test_an_answer_cut_by_length_is_not_half_applied(on: Stage) -> None:
    project = on.project("cutter", [{"when": "Fix calc.py", "say": "calc.py\n```\ndef add(a", "cut": True}])
    done = on.launch("aider", "cutter", project, *QUIET, "calc.py", "--message", PROMPT)
    assert (project / "calc.py").read_text() == CALC, done.stdout


@AIDER
def test_the_doctor_lets_aider_mend_a_project(on: Stage) -> None:
    status, report, progress = on.doctor("aider", "mender", [{"when": "mend", "say": listing("a + b")}])
    assert (status, report["findings"]) == (0, []), progress
