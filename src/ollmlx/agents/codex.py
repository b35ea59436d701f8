"""Codex: it is told by overrides of its configuration, and by a catalogue of models with the one model. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ollmlx.agents.profile import KEY_VARIABLE, NO_KEY, Agent, ServedModel, Setup, Task

PATIENCE_MS = 3_600_000
LEVELS = ("low", "medium", "high")
OUTPUT_TOKENS = 10_000
INSTRUCTIONS = """You are a coding agent in a terminal. You and the user work on the files of one folder.

- Look before you change: read the files that matter with exec_command (`rg`, `sed -n`, `cat`).
- Make the smallest change that does what was asked, in the style of the code around it. Edit files with apply_patch:

*** Begin Patch
*** Update File: path/to/file.py
@@
 a line that stays
-a line that goes
+a line that comes
*** End Patch

- Run the tests or the program afterwards, read what it prints, and repair what fails.
- Go on until the task is done; do not ask what you can find out. Then say in a few sentences what you did.
"""
"""The agent's instructions: Codex has its own for OpenAI's models only, and four times as many tokens for others."""


def setup(target: ServedModel, folder: Path) -> Setup:
    """Return overrides; the person's own configuration stays as it is, and counts for everything else."""
    file = folder / "models.json"
    provider = (
        f"{{name = {_text('ollmlx')}, base_url = {_text(target.url + '/v1')}, wire_api = {_text('responses')}, "
        f"env_key = {_text(KEY_VARIABLE)}, stream_idle_timeout_ms = {PATIENCE_MS}}}"
    )
    overrides = {
        "model": _text(target.model),
        "model_provider": _text("ollmlx"),
        "model_providers.ollmlx": provider,
        "model_catalog_json": _text(str(file)),
        "review_model": _text(target.model),
        "web_search": _text("disabled"),
    }
    return Setup(
        arguments=tuple(word for key, value in overrides.items() for word in ("-c", f"{key}={value}")),
        environment={KEY_VARIABLE: target.key or NO_KEY},
        files={file: json.dumps({"models": [entry(target)]}, indent=2) + "\n"},
    )


def entry(target: ServedModel) -> dict[str, Any]:
    """Return the model's entry in the catalogue: without one Codex assumes limits that the model does not have."""
    levels = LEVELS if target.thinks else ()
    return {
        "slug": target.model,
        "display_name": target.model,
        "description": "served by ollmlx",
        "default_reasoning_level": "medium" if levels else None,
        "supported_reasoning_levels": [{"effort": level, "description": f"{level} effort"} for level in levels],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1,
        "base_instructions": INSTRUCTIONS,
        "support_verbosity": False,
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": min(OUTPUT_TOKENS, target.context // 8)},
        "supports_parallel_tool_calls": True,
        "context_window": target.context,
        "effective_context_window_percent": 95,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"] if target.sees else ["text"],
    }


def _text(value: str) -> str:
    """Return a string as TOML writes it; JSON's notation is the same for what stands in names and addresses."""
    return json.dumps(value, ensure_ascii=False)


def task(wanted: Task) -> Setup:
    """Return the arguments of a task. Its sandbox permits any command, without the network, in the folder only."""
    return Setup(("exec", "--skip-git-repo-check", "--sandbox", "workspace-write", wanted.prompt))


CODEX = Agent(
    name="codex",
    title="Codex",
    program="codex",
    install="npm install -g @openai/codex",
    setup=setup,
    task=task,
)
