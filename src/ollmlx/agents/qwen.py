"""Qwen Code: it is told by a settings file of ollmlx's own, which counts more than the person's. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ollmlx.agents.profile import KEY_VARIABLE, NO_KEY, Agent, ServedModel, Setup, Task

PATIENCE_MS = 3_600_000


def setup(target: ServedModel, folder: Path) -> Setup:
    """Return the settings: a provider with the one model. The person's own count for everything else."""
    stated = {
        "modelProviders": {"openai": [entry(target)]},
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": target.model},
        # In the background it reads each conversation once more, with another prompt, to remember something of it.
        "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
    }
    file = folder / "settings.json"
    return Setup(
        arguments=("--auth-type", "openai", "--model", target.model),
        environment={
            KEY_VARIABLE: target.key or NO_KEY,
            "QWEN_CODE_SYSTEM_SETTINGS_PATH": str(file),
            "QWEN_CODE_MAX_OUTPUT_TOKENS": str(target.answer),
            "QWEN_STREAM_MAX_LIFETIME_MS": "0",
        },
        files={file: json.dumps(stated, indent=2) + "\n"},
    )


def entry(target: ServedModel) -> dict[str, Any]:
    """Return what Qwen Code knows of the model."""
    limits = {
        "contextWindowSize": target.context,
        "modalities": {"image": target.sees},
        "timeout": PATIENCE_MS,
        "streamIdleTimeoutMs": 0,
    }
    return {
        "id": target.model,
        "name": target.model,
        "baseUrl": f"{target.url}/v1",
        "envKey": KEY_VARIABLE,
        "generationConfig": limits,
    }


def task(wanted: Task) -> Setup:
    """Return the arguments of a task: files may be edited, and of all commands this one may be run."""
    allowed = f"run_shell_command({wanted.command})"
    return Setup(("--approval-mode", "auto-edit", "--allowed-tools", allowed, "--prompt", wanted.prompt))


QWEN = Agent(
    name="qwen",
    title="Qwen Code",
    program="qwen",
    install="npm install -g @qwen-code/qwen-code",
    setup=setup,
    task=task,
)
