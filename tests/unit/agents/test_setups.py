"""The setup of each agent: for this start, in a folder of its own, with the limits that the model has."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest

from ollmlx.agents.known import AGENTS, find_agent
from ollmlx.agents.profile import Agent, ServedModel, Setup
from ollmlx.errors import InvalidRequest

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
