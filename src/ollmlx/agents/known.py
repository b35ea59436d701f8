"""The agents that ollmlx knows, and where their programs are on this machine."""

from __future__ import annotations

import shutil
from difflib import get_close_matches

from ollmlx.agents.aider import AIDER
from ollmlx.agents.claude import CLAUDE
from ollmlx.agents.codex import CODEX
from ollmlx.agents.opencode import OPENCODE
from ollmlx.agents.profile import Agent
from ollmlx.agents.qwen import QWEN
from ollmlx.errors import InvalidRequest, NotFound

AGENTS = {agent.name: agent for agent in (CLAUDE, CODEX, OPENCODE, QWEN, AIDER)}


def find_agent(name: str) -> Agent:
    """Return the agent of a name. Raises InvalidRequest."""
    agent = AGENTS.get(name.lower())
    if agent is None:
        near = get_close_matches(name.lower(), AGENTS, n=1)
        hint = f"ollmlx launch {near[0]}" if near else "ollmlx launch"
        raise InvalidRequest(f"no agent is called {name!r}: there are {', '.join(AGENTS)}", hint=hint)
    return agent


def find_program(agent: Agent) -> str:
    """Return the path of an agent's program. Raises NotFound with the command that installs it."""
    path = shutil.which(agent.program)
    if path is None:
        raise NotFound(f"{agent.title} is not installed: no program {agent.program!r} in PATH", hint=agent.install)
    return path
