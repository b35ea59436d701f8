"""An agent as ollmlx knows it: its program, its needs, and the way it is told to use this daemon."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_CONTEXT = 32 * 1024
"""Tokens that an agent's work needs: its instructions and tools alone take 5,000 to 20,000."""
KEY_VARIABLE = "OLLMLX_AGENT_KEY"
"""The variable with the key, for agents that can be told its name."""
NO_KEY = "ollmlx"
"""The key that is sent to a daemon without keys: most agents refuse to start without one."""


@dataclass(frozen=True)
class ServedModel:
    """The daemon and the model that an agent uses. `context` is what the loaded model has, in tokens."""

    url: str
    model: str
    context: int
    capabilities: frozenset[str] = frozenset()
    key: str | None = None

    @property
    def sees(self) -> bool:
        return "vision" in self.capabilities

    @property
    def thinks(self) -> bool:
        return "thinking" in self.capabilities

    @property
    def answer(self) -> int:
        """The most tokens of one answer: an eighth of the context, so that most of it is left for the work."""
        return min(max(self.context // 8, 1024), 32_000)


@dataclass(frozen=True)
class Setup:
    """The settings of one start: arguments before the person's own, variables, and files of ollmlx's own folder."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write the files, readable by their owner only: one of them may hold a key. Raises OSError."""
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """Return everything that is set, without the key."""
        return {
            "arguments": list(self.arguments),
            "environment": {name: _shown(name, value) for name, value in self.environment.items()},
            "files": [str(path) for path in self.files],
        }

    def as_text(self, program: str) -> str:
        """Return the start as a shell command; the key is left out."""
        variables = [f"{name}={shlex.quote(_shown(name, value))}" for name, value in self.environment.items()]
        lines = [*variables, shlex.join([program, *self.arguments])]
        files = [f"# writes {path}" for path in self.files]
        return "\n".join([*files, " \\\n  ".join(lines)])


def _shown(name: str, value: str) -> str:
    return "..." if name.endswith(("_KEY", "_TOKEN")) and value not in ("", NO_KEY) else value


@dataclass(frozen=True)
class Task:
    """A prompt, the file that is to be edited, and the one command that may be run."""

    prompt: str
    file: str
    command: str


@dataclass(frozen=True)
class Agent:
    """One agent.

    `setup`: from the served model and a folder of ollmlx's own to a setup. `task`: what is added to it for one task,
    without a terminal, with no more rights in the current folder than the task needs.
    """

    name: str
    title: str
    program: str
    install: str
    setup: Callable[[ServedModel, Path], Setup]
    task: Callable[[Task], Setup]
    needs_tools: bool = True
