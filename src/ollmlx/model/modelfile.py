"""Modelfiles: text in Ollama's grammar is parsed into commands. Pure.

A command is `COMMAND value`, in any letter case. A value ends with its line, or with its closing quotes: `"…"` or three
of them, both over several lines. `#` begins a comment line.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollmlx.errors import InvalidRequest

COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
UNUSED_COMMANDS = {
    "renderer": "RENDERER is not used: the model's own chat template renders prompts",
    "parser": "PARSER is not used: thinking and tool calls are found by the model's own chat template",
    "requires": "REQUIRES is not used: it states a version of Ollama, and ollmlx has its own",
    "draft": 'DRAFT is not used: a draft model is set in ollmlx.toml: [models."NAME"] draft',
}
"""Commands that change nothing here, and what is told instead."""
ROLES = ("system", "user", "assistant")
FENCE = '"""'


@dataclass(frozen=True)
class Command:
    """One command: `name` is lower-case; `key` is a parameter's name or a message's role."""

    name: str
    value: str
    line: int
    key: str = ""


@dataclass(frozen=True)
class Modelfile:
    """The commands of a Modelfile, in order."""

    commands: tuple[Command, ...]

    def values(self, name: str) -> tuple[str, ...]:
        """The values of every command of a name."""
        return tuple(command.value for command in self.commands if command.name == name)

    def last(self, name: str) -> str | None:
        """The last value of a command, which counts where only one can."""
        return next(iter(reversed(self.values(name))), None)

    def keyed(self, name: str) -> tuple[tuple[str, str], ...]:
        """Key and value of every command of a name: parameters, messages."""
        return tuple((command.key, command.value) for command in self.commands if command.name == name)


def parse_modelfile(text: str) -> Modelfile:
    """Read a Modelfile. Raises InvalidRequest with the line of the first fault."""
    lines = text.lstrip("\ufeff").splitlines()
    commands: list[Command] = []
    index = 0
    while index < len(lines):
        if lines[index].strip() and not lines[index].lstrip().startswith("#"):
            command, index = _command(lines, index)
            commands.append(command)
        else:
            index += 1
    if not any(command.name == "from" for command in commands):
        raise InvalidRequest(
            "no FROM line", hint="a Modelfile begins with FROM NAME, FROM ./file.gguf or FROM ./folder"
        )
    return Modelfile(tuple(commands))


def _command(lines: list[str], start: int) -> tuple[Command, int]:
    """The command that begins on a line, and the line after it."""
    word, rest = _split(lines[start])
    name, key = word.lower(), ""
    if name not in COMMANDS:
        known = ", ".join(f'"{command}"' for command in COMMANDS[:-1])
        raise _fault(start, f'command must be one of {known}, or "{COMMANDS[-1]}"')
    if name in ("parameter", "message"):
        key, rest = _split(rest)
        key = key.lower()
        if name == "message" and key not in ROLES:
            raise _fault(start, 'message role must be one of "system", "user", or "assistant"')
    value, following = _value(lines, start, rest)
    if not value and name in ("from", "adapter", "draft", "parameter"):
        raise _fault(start, f"{name.upper()} needs a value")
    return Command(name, value, start + 1, key), following


def _value(lines: list[str], start: int, first: str) -> tuple[str, int]:
    """A value and the line after it."""
    quote = FENCE if first.startswith(FENCE) else '"' if first.startswith('"') else ""
    if not quote:
        return first.rstrip(), start + 1
    read = first
    for index in range(start, len(lines)):
        if index > start:
            read += f"\n{lines[index]}"
        closed = read.rstrip()
        if len(closed) >= 2 * len(quote) and closed.endswith(quote):
            return closed[len(quote) : -len(quote)], index + 1
    raise _fault(start, "unexpected end of file: the quotes are not closed")


def _split(text: str) -> tuple[str, str]:
    """The first word, and what follows it."""
    words = text.lstrip().split(None, 1)
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def _fault(index: int, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Modelfile (line {index + 1}): {problem}")
