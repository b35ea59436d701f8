"""aider: it is told by arguments, and by a file with the model's limits. It edits by text and needs no tools. Pure."""

from __future__ import annotations

import json
from pathlib import Path

from ollmlx.agents.profile import NO_KEY, Agent, ServedModel, Setup, Task


def setup(target: ServedModel, folder: Path) -> Setup:
    """Return the arguments; OpenAI's dialect, because in Ollama's it asks for a new context length every time."""
    model = f"openai/{target.model}"
    file = folder / "models.json"
    limits = {
        "max_input_tokens": target.context,
        "max_output_tokens": target.answer,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
        "supports_vision": target.sees,
    }
    return Setup(
        arguments=(
            *("--model", model, "--weak-model", model, "--editor-model", model),
            *("--model-metadata-file", str(file), "--timeout", "3600", "--no-show-model-warnings"),
        ),
        environment={
            "OPENAI_API_BASE": f"{target.url}/v1",
            "OPENAI_API_KEY": target.key or NO_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        files={file: json.dumps({model: limits}, indent=2) + "\n"},
    )


def task(wanted: Task) -> Setup:
    """Return the arguments of a task: it runs the command after each edit, and reads what fails."""
    quiet = ("--no-check-update", "--analytics-disable", "--no-show-release-notes", "--no-git", "--yes-always")
    return Setup((*quiet, "--test-cmd", wanted.command, "--auto-test", wanted.file, "--message", wanted.prompt))


AIDER = Agent(
    name="aider",
    title="aider",
    program="aider",
    install="pipx install aider-chat",
    setup=setup,
    task=task,
    needs_tools=False,
)
