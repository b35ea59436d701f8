"""The menu that bare `ollmlx` opens on a terminal: it leads to the verbs that a person needs first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CHOICES: Final = (
    ("run", "chat with a model", "Model: "),
    ("pull", "download a model", "Model: "),
    ("launch", "start a coding agent with a model", "Agent: "),
    ("doctor", "find problems, and the commands that fix them", ""),
    ("help", "every command", ""),
)
"""Verb, what it does, and the question for its argument, if it has one."""


def choose(ask: Callable[[str], str] = input, say: Callable[[str], None] = print) -> tuple[str, list[str]] | None:
    """Return the verb and the arguments that a person chooses, by number or name; None at Ctrl-D or an empty line."""
    for number, (verb, does, _) in enumerate(CHOICES, 1):
        say(f"  {number}  {verb:<7} {does}")
    try:
        while answer := ask("Number or name (Enter ends): ").strip().lower():
            words = answer.split()
            found = next((each for number, each in enumerate(CHOICES, 1) if words[0] in (str(number), each[0])), None)
            if found is None:
                say(f"There is no {answer[:40]!r} here.")
                continue
            verb, _, question = found
            argument = words[1:] or (ask(question).split() if question else [])
            if argument or not question:
                return verb, argument
    except EOFError:
        say("")
    return None
