"""opencode: it is told by one variable that holds a piece of configuration, laid over the person's own. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ollmlx.agents.profile import KEY_VARIABLE, NO_KEY, Agent, ServedModel, Setup, Task


def setup(target: ServedModel, folder: Path) -> Setup:
    """Return the configuration: a provider with the one model, which does the small requests, too."""
    name = f"ollmlx/{target.model}"
    options = {"baseURL": f"{target.url}/v1", "apiKey": f"{{env:{KEY_VARIABLE}}}", "timeout": False}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "ollmlx",
        "options": options,
        "models": {target.model: entry(target)},
    }
    stated = {"model": name, "small_model": name, "provider": {"ollmlx": provider}}
    variables = {KEY_VARIABLE: target.key or NO_KEY, "OPENCODE_CONFIG_CONTENT": json.dumps(stated)}
    return Setup(environment=variables)


def entry(target: ServedModel) -> dict[str, Any]:
    """Return what opencode knows of the model."""
    return {
        "name": target.model,
        "limit": {"context": target.context, "output": target.answer},
        "tool_call": "tools" in target.capabilities,
        "reasoning": target.thinks,
        "attachment": target.sees,
        "modalities": {"input": ["text", "image"] if target.sees else ["text"], "output": ["text"]},
    }


def task(wanted: Task) -> Setup:
    """Return the arguments of a task, and its rights: what is not named is refused, because nobody can be asked."""
    rights = {"*": "deny", "read": "allow", "list": "allow", "glob": "allow", "grep": "allow", "edit": "allow"}
    permission = {**rights, "bash": {"*": "deny", f"{wanted.command}*": "allow"}}
    return Setup(("run", wanted.prompt), {"OPENCODE_PERMISSION": json.dumps(permission)})


OPENCODE = Agent(
    name="opencode",
    title="opencode",
    program="opencode",
    install="npm install -g opencode-ai",
    setup=setup,
    task=task,
)
