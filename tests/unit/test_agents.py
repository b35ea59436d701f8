"""The setup of each agent: for this start, in a folder of its own, with the limits that the model has."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.servers.serving import Answer, Asked, Served

from ollmlx.agents.known import AGENTS, find_agent
from ollmlx.agents.profile import Agent, ServedModel, Setup
from ollmlx.agents.trial import ENDS, PASSES, STEPS, TrialResult, try_agent
from ollmlx.errors import InvalidRequest
from ollmlx.testing import eventually
from ollmlx.text.addresses import Address

URL = "http://127.0.0.1:11434"
SECRET = "olx-very-secret"
TARGET = ServedModel(URL, "qwen3:8b", 40_960, frozenset({"completion", "tools"}), SECRET)
SEEING = ServedModel(URL, "sees:latest", 131_072, frozenset({"completion", "tools", "vision", "thinking"}))

every_agent = pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)


def setting_of(setup: Setup) -> str:
    """Everything that an agent can read."""
    return json.dumps([setup.arguments, dict(setup.environment), list(setup.files.values())])


@every_agent
def test_an_agent_is_told_the_daemon_the_model_and_its_key(agent: Agent, tmp_path: Path) -> None:
    told = setting_of(agent.setup(TARGET, tmp_path))
    assert all(word in told for word in (URL, "qwen3:8b", SECRET))


@every_agent
def test_a_daemon_without_keys_gets_a_key_that_means_nothing(agent: Agent, tmp_path: Path) -> None:
    assert '"ollmlx"' in setting_of(agent.setup(SEEING, tmp_path)).replace('\\"', '"')


@every_agent
def test_files_are_written_into_the_folder_of_the_agent_and_only_their_owner_reads_them(
    agent: Agent, tmp_path: Path
) -> None:
    folder = tmp_path / "agents" / agent.name
    setup = agent.setup(TARGET, folder)
    setup.write()
    setup.write()  # a second start replaces them
    for path, text in setup.files.items():
        assert path.is_relative_to(folder)
        assert path.read_text() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@every_agent
def test_what_is_shown_has_no_key(agent: Agent, tmp_path: Path) -> None:
    setup = agent.setup(TARGET, tmp_path)
    assert SECRET not in setup.as_text(agent.program)
    assert SECRET not in json.dumps(setup.as_json())
    assert setup.as_text(agent.program).splitlines()[-1].strip().startswith((agent.program, "OPENCODE"))


def test_qwen_code_knows_the_limits_of_the_model(tmp_path: Path) -> None:
    ((file, text),) = find_agent("qwen").setup(SEEING, tmp_path).files.items()
    assert find_agent("qwen").setup(SEEING, tmp_path).environment["QWEN_CODE_SYSTEM_SETTINGS_PATH"] == str(file)
    (model,) = json.loads(text)["modelProviders"]["openai"]
    assert (model["id"], model["envKey"]) == ("sees:latest", "OLLMLX_AGENT_KEY")
    limits = model["generationConfig"]
    assert (limits["contextWindowSize"], limits["modalities"]) == (131_072, {"image": True})


def test_codex_knows_the_model_from_a_catalogue(tmp_path: Path) -> None:
    setup = find_agent("codex").setup(TARGET, tmp_path)
    words = setup.arguments[1::2]
    stated = tomllib.loads("\n".join(words))
    (file,) = setup.files
    assert set(setup.arguments[::2]) == {"-c"}
    assert (stated["model"], stated["model_provider"], stated["model_catalog_json"]) == (
        "qwen3:8b",
        "ollmlx",
        str(file),
    )
    assert stated["model_providers"]["ollmlx"]["base_url"] == f"{URL}/v1"
    (model,) = json.loads(setup.files[file])["models"]
    assert (model["slug"], model["context_window"], model["input_modalities"]) == ("qwen3:8b", 40_960, ["text"])
    assert model["supported_reasoning_levels"] == []


def test_a_model_that_sees_and_thinks_is_told_so(tmp_path: Path) -> None:
    (catalogue,) = find_agent("codex").setup(SEEING, tmp_path).files.values()
    (model,) = json.loads(catalogue)["models"]
    assert model["input_modalities"] == ["text", "image"]
    assert [level["effort"] for level in model["supported_reasoning_levels"]] == ["low", "medium", "high"]
    configuration = json.loads(find_agent("opencode").setup(SEEING, tmp_path).environment["OPENCODE_CONFIG_CONTENT"])
    entry = configuration["provider"]["ollmlx"]["models"]["sees:latest"]
    assert (entry["attachment"], entry["reasoning"], entry["limit"]["context"]) == (True, True, 131_072)


@pytest.mark.parametrize("context", [8_192, 32_768, 65_536, 200_000])
def test_claude_code_compacts_before_the_context_is_full(context: int, tmp_path: Path) -> None:
    target = ServedModel(URL, "m", context)
    variables = find_agent("claude").setup(target, tmp_path).environment
    window, answer = (int(variables[f"CLAUDE_CODE_MAX_{what}_TOKENS"]) for what in ("CONTEXT", "OUTPUT"))
    compacts_at = window - min(answer, 20_000) - 13_000  # as its code has it
    assert context // 2 < compacts_at <= context - min(answer, 20_000)


def test_claude_code_gets_the_variables_by_a_file_too(tmp_path: Path) -> None:
    setup = find_agent("claude").setup(TARGET, tmp_path)
    ((path, text),) = setup.files.items()
    assert setup.arguments == ("--settings", str(path))
    assert json.loads(text) == {"env": setup.environment}


def test_an_unknown_agent_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InvalidRequest, match="no agent is called 'cluade'") as caught:
        find_agent("cluade")
    assert caught.value.hint == "ollmlx launch claude"


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
