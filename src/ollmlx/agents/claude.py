"""Claude Code: it is told by variables, and once more by a settings file that is laid over the person's own. Pure."""

from __future__ import annotations

import json
from pathlib import Path

from ollmlx.agents.profile import NO_KEY, Agent, ServedModel, Setup, Task

COMPACTION_BUFFER = 13_000
"""Tokens below its window at which Claude Code compacts, less the room for an answer."""
MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
PATIENCE_MS = 3_600_000


def setup(target: ServedModel, folder: Path) -> Setup:
    """Return the variables, and the file with them: `env` in the person's settings would win over variables alone."""
    variables = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key or NO_KEY,
        "ANTHROPIC_API_KEY": "",
        **dict.fromkeys(MODELS, target.model),
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(_window(target)),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(target.answer),
        "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS": str(min(target.context // 4, 25_000)),
        # The line that it describes changes with every start, and would make every prompt a new one.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "API_TIMEOUT_MS": str(PATIENCE_MS),
    }
    file = folder / "settings.json"
    return Setup(
        arguments=("--settings", str(file)),
        environment=variables,
        files={file: json.dumps({"env": variables}, indent=2) + "\n"},
    )


def _window(target: ServedModel) -> int:
    """Return the window that makes it compact in time.

    Its buffer is made for 200,000 tokens; of a short context it would leave nothing. A tenth of the context is enough.
    """
    return target.context + COMPACTION_BUFFER - min(COMPACTION_BUFFER, target.context // 10)


def task(wanted: Task) -> Setup:
    """Return the arguments of a task."""
    return Setup(("-p", wanted.prompt, "--allowedTools", "Read", "Edit", "Write", f"Bash({wanted.command}:*)"))


CLAUDE = Agent(
    name="claude",
    title="Claude Code",
    program="claude",
    install="npm install -g @anthropic-ai/claude-code",
    setup=setup,
    task=task,
)
