"""What the chat loop says about itself."""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS = {
    "/set": "Set session variables",
    "/show": "Show model information",
    "/load <model>": "Load a model, with an empty chat",
    "/save <model>": "Save this session as a model",
    "/list": "List installed models",
    "/clear": "Clear session context",
    "/bye": "Exit",
    "/?, /help": "Help for a command",
    "/? shortcuts": "Help for keyboard shortcuts",
}
SET = {
    "/set parameter <name> <value>...": "Set a sampling parameter",
    "/set system <string>": "Set the system message",
    "/set history": "Keep what is typed",
    "/set nohistory": "Do not keep what is typed",
    "/set wordwrap": "Break lines between words",
    "/set nowordwrap": "Let the terminal break lines",
    "/set format json": "Answer in JSON",
    "/set noformat": "Answer freely",
    "/set verbose": "Print durations, counts and rates",
    "/set quiet": "Print answers alone",
    "/set think [low|medium|high|max]": "Have the model think first",
    "/set nothink": "Have the model answer at once",
}
SHOW = {
    "/show info": "What the model is",
    "/show license": "Its license",
    "/show modelfile": "Its Modelfile",
    "/show parameters": "Its parameters, and yours",
    "/show system": "Its system message, or yours",
    "/show template": "Its prompt template",
}
SHORTCUTS = {
    "Ctrl + a / e": "Move to the beginning / end of the line",
    "Alt + b / f": "Move back / forward one word",
    "Ctrl + k / u": "Delete to the end / beginning of the line",
    "Ctrl + w": "Delete the word before the cursor",
    "Ctrl + r": "Search what was typed before",
    "Ctrl + l": "Clear the screen",
    "Ctrl + c": "Stop the answer, or empty the line",
    "Ctrl + d": "Exit",
}


def usage(topic: str = "") -> str:
    """Help for a topic: `set`, `show`, `shortcuts`, or everything."""
    topics: dict[str, tuple[str, Mapping[str, str]]] = {
        "set": ("Available commands:", SET),
        "show": ("Available commands:", SHOW),
        "shortcuts": ("Available keyboard shortcuts:", SHORTCUTS),
    }
    title, entries = topics.get(topic.strip().lstrip("/"), ("Available commands:", COMMANDS))
    longest = max(map(len, entries))
    lines = [title, *(f"  {name:<{longest}}   {text}" for name, text in entries.items())]
    if entries is COMMANDS:
        lines += ["", 'Use """ to begin a multi-line message.']
    return "\n".join(lines)
