"""The trial of an agent, with small programs in the agent's place: each step that can be missing, and why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.servers.serving import Answer, Asked, Served

from ollmlx.agents.profile import Agent, ServedModel, Setup
from ollmlx.agents.trial import ENDS, PASSES, STEPS, TrialResult, try_agent
from ollmlx.testing import eventually
from ollmlx.text.addresses import Address

CALL = b'data: {"choices": [{"delta": {"content": "I look.", "tool_calls": [{"index": 0}]}}]}\n\ndata: [DONE]\n\n'
POST = "import os, urllib.request as r; r.urlopen(os.environ['URL'] + '/v1/chat/completions', b'{}').read()"
ASK = f'"{sys.executable}" -c "{POST}"'
MEND = "sed -i.bak 's/a - b/a + b/' calc.py"
TEST = f'"{sys.executable}" -B -m unittest 2>result'
EVERY = [*(name for name, _ in STEPS), PASSES, ENDS]


def tried(
    tmp_path: Path, script: str, *, answer: Answer | None = None, patience: float = 120, tools: bool = True
) -> tuple[TrialResult, list[Asked]]:
    """Let a shell script do the task; the daemon answers every request with one answer."""
    program = tmp_path / "agent"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    agent = Agent(
        name="script",
        title="Script",
        program="script",
        install="",
        setup=lambda model, folder: Setup(environment={"URL": model.url}),
        task=lambda task: Setup(arguments=(task.prompt,)),
        needs_tools=tools,
    )
    daemon = Served(lambda asked: answer or Answer(200, CALL))
    try:
        model = ServedModel(daemon.url, "m", 32_768)
        address = Address.parse(daemon.url)
        folder = tmp_path / "agents"
        result = try_agent(agent, str(program), model, address, folder, lambda *step: None, patience=patience)
    finally:
        daemon.close()
    assert list(folder.iterdir()) == []  # nothing is left of it
    return result, daemon.asked


def test_an_agent_that_does_everything_passes(tmp_path: Path) -> None:
    result, asked = tried(tmp_path, f"{ASK}\n{TEST}\n{MEND}\n{TEST}")
    assert (result.failed, list(result.steps), result.evidence) == (None, EVERY, ())
    assert [one.path for one in asked] == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("script", "failed", "evidence"),
    [
        ("echo no such option; exit 3", "the program sends a request", "no such option"),
        (f"{ASK}; {MEND}", "the test is run", "I look."),
        (f"{ASK}; {TEST}; true", "calc.py is edited", "I look."),
        (f"{ASK}; {TEST}; echo x >calc.py", PASSES, "I look."),
        (f"{ASK}; {TEST}; {MEND}; echo >>test_calc.py; {TEST}", PASSES, "I look."),
        (f"{ASK}; {TEST}; {MEND}; exit 3", ENDS, "exit status was 3"),
    ],
)
def test_the_first_step_that_is_missing_is_named_with_what_was_seen(
    tmp_path: Path, script: str, failed: str, evidence: str
) -> None:
    result, _ = tried(tmp_path, script)
    assert result.failed == failed
    assert evidence in "\n".join(result.evidence)


def test_a_refused_request_is_told_in_the_daemon_s_words(tmp_path: Path) -> None:
    refusal = Answer(400, json.dumps({"error": {"message": "the context is too short"}}).encode())
    result, _ = tried(tmp_path, ASK, answer=refusal)
    assert result.failed == "the daemon answers it"
    assert result.evidence[0] == "POST /v1/chat/completions was answered 400: the context is too short"


def test_an_answer_without_a_call_is_missed_unless_the_agent_needs_no_tools(tmp_path: Path) -> None:
    said = Answer(
        200, b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"text": "Hi."}}\n\n'
    )
    script = f"{ASK}; {TEST}; {MEND}"
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    result, _ = tried(tmp_path / "with", script, answer=said)
    assert result.failed == "the model calls a tool"
    assert result.evidence[0] == "the model's last words: Hi."
    result, _ = tried(tmp_path / "without", script, answer=said, tools=False)
    assert (result.failed, "the model calls a tool" in result.steps) == (None, False)


def test_a_program_that_does_not_end_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    result, _ = tried(tmp_path, f"sleep 1000 & {ASK}; {TEST}; {MEND}; sleep 1000", patience=5)
    assert result.steps[ENDS] is False
    assert any("it was stopped after 5 s" in line for line in result.evidence)


def test_the_program_sees_nothing_of_the_person_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    shown = tmp_path / "shown"
    tried(tmp_path, f"env >{shown}")
    variables = dict(line.split("=", 1) for line in shown.read_text().splitlines() if "=" in line)
    assert "ANTHROPIC_API_KEY" not in variables
    assert variables["HOME"].startswith(str(tmp_path / "agents"))
    assert variables["HTTPS_PROXY"] != os.environ.get("HTTPS_PROXY")


TRIAL = """
import sys
from pathlib import Path
from ollmlx.agents.profile import Agent, ServedModel, Setup
from ollmlx.agents.trial import ended_by_signals, try_agent
from ollmlx.text.addresses import Address

nothing = lambda *given: Setup()
agent = Agent(name="s", title="S", program="s", install="", setup=nothing, task=nothing, needs_tools=True)
url = "http://127.0.0.1:9"
with ended_by_signals():
    try_agent(agent, sys.argv[1], ServedModel(url, "m", 1), Address.parse(url), Path(sys.argv[2]), print)
"""


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_trial_that_is_ended_leaves_no_agent_and_unless_it_is_killed_no_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    program, pids, folder = tmp_path / "agent", tmp_path / "pids", tmp_path / "agents"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! >{pids}.new\nmv {pids}.new {pids}\nwait\n")
    program.chmod(0o755)
    trial = await asyncio.create_subprocess_exec(sys.executable, "-c", TRIAL, str(program), str(folder))
    try:
        await eventually(pids.exists)
        trial.send_signal(number)
        assert await asyncio.wait_for(trial.wait(), 60) == (-number if number == signal.SIGKILL else 128 + number)
    finally:
        with suppress(ProcessLookupError):
            trial.kill()
        await trial.wait()
    left = [int(pid) for pid in pids.read_text().split()]
    await eventually(lambda: not any(map(_runs, left)))
    assert (list(folder.iterdir()) == []) == (number != signal.SIGKILL)
