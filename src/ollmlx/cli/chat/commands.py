"""The conversation of a chat, and the commands that change it: lines that begin with a slash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ollmlx.cli.answer import THINK_LEVELS, StreamedAnswer
from ollmlx.cli.client import Client, Json, stated
from ollmlx.cli.models import PARTS, description, installed_models, models_table, part_of
from ollmlx.cli.transfer import succeeded
from ollmlx.errors import InvalidRequest
from ollmlx.types import Options

HIDDEN = {"logit_bias"}  # too long to type
COMMAND_HELP = {
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
SHOW_HELP = {
    "/show info": "Describe the model",
    "/show license": "Its license",
    "/show modelfile": "Its Modelfile",
    "/show parameters": "Its parameters, and yours",
    "/show system": "Its system message, or yours",
    "/show template": "Its prompt template",
}
SHORTCUT_HELP = {
    "Ctrl + a / e": "Move to the beginning / end of the line",
    "Alt + b / f": "Move back / forward one word",
    "Ctrl + k / u": "Delete to the end / beginning of the line",
    "Ctrl + w": "Delete the word before the cursor",
    "Ctrl + r": "Search earlier lines",
    "Ctrl + l": "Clear the screen",
    "Ctrl + c": "Stop the answer, or empty the line",
    "Ctrl + d": "Exit",
}


@dataclass
class Conversation:
    """The state of one chat. `options`: the options that the user set."""

    model: str
    system: str | None = None
    messages: list[Json] = field(default_factory=list)
    options: Json = field(default_factory=dict)
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | float | None = None

    def request(self) -> Json:
        """Return the body of the next /api/chat request."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: Json = {"model": self.model, "messages": [*system, *self.messages]}
        return body | stated(
            options=self.options or None, format=self.format, think=self.think, keep_alive=self.keep_alive
        )

    def saved(self, name: str) -> Json:
        """Return the body of the /api/create request that saves this chat as a model."""
        body: Json = {"model": name, "from": self.model, "stream": True}
        kept = {"system": self.system, "parameters": self.options, "messages": self.messages}
        return body | {key: value for key, value in kept.items() if value}

    def add_question(self, text: str, images: Sequence[str] = ()) -> None:
        """Add the user's turn, with its pictures in base64."""
        self.messages.append({"role": "user", "content": text, **stated(images=list(images) or None)})

    def add_answer(self, answer: StreamedAnswer) -> None:
        """Add the model's turn. If the answer was interrupted before its first word, remove the question instead."""
        if not answer.text and not answer.tool_calls and not answer.final:
            self.remove_question()
            return
        turn: Json = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            turn["thinking"] = answer.thinking
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        self.messages.append(turn)

    def remove_question(self) -> None:
        """Remove a question without an answer, so that the turns alternate."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Yield the options that the user set, as they are written; each item of a list."""
        for name, value in self.options.items():
            for item in value if isinstance(value, list) else [value]:
                yield name, json.dumps(item, ensure_ascii=False)

    def set_parameter(self, name: str, values: list[str]) -> None:
        """Set one option from its words. Raises InvalidRequest for an unknown name or a bad value."""
        if name not in Options.model_fields or name in HIDDEN:
            known = ", ".join(sorted(set(Options.model_fields) - HIDDEN))
            raise InvalidRequest(f"unknown parameter {name!r}", hint=f"known: {known}")
        try:
            options = Options.model_validate({name: values if name == "stop" else " ".join(values)})
        except ValidationError as error:
            raise InvalidRequest(f"parameter {name!r}: {error.errors()[0]['msg']}") from error
        self.options[name] = options.model_dump(mode="json")[name]


@dataclass
class Session:
    """The state of the chat loop: the conversation and how it is shown. `say` prints a line."""

    client: Client
    conversation: Conversation
    say: Callable[[str], None]
    wordwrap: bool = True
    verbose: bool = False
    history: bool = True
    over: bool = False


def run_command(session: Session, line: str) -> None:
    """Run a command. Raises OllmlxError if that is not possible."""
    words = line.split(None, 1)
    name, rest = words[0], words[1] if len(words) > 1 else ""
    command = COMMANDS.get(name)
    if command is None:
        raise InvalidRequest(f"unknown command '{name}'", hint="/? lists the commands")
    command(session, rest)


def usage(topic: str = "") -> str:
    """Return the help for a topic: `set`, `show` or `shortcuts`; otherwise the list of commands."""
    topics: dict[str, tuple[str, Mapping[str, str]]] = {
        "set": ("Available commands:", {f"/set {form}": text for form, text, _ in SETTINGS}),
        "show": ("Available commands:", SHOW_HELP),
        "shortcuts": ("Available keyboard shortcuts:", SHORTCUT_HELP),
    }
    title, entries = topics.get(topic.strip().lstrip("/"), ("Available commands:", COMMAND_HELP))
    longest = max(map(len, entries))
    lines = [title, *(f"  {name:<{longest}}   {text}" for name, text in entries.items())]
    if entries is COMMAND_HELP:
        lines += ["", 'Use """ to begin a multi-line message.']
    return "\n".join(lines)


def _bye(session: Session, rest: str) -> None:
    session.over = True


def _help(session: Session, rest: str) -> None:
    session.say(usage(rest))


def _clear(session: Session, rest: str) -> None:
    session.conversation.messages.clear()
    session.say("Cleared session context")


def _list(session: Session, rest: str) -> None:
    session.say(models_table(installed_models(session.client, rest.strip())))


def _load(session: Session, rest: str) -> None:
    model = _one_word(rest, "/load <model>")
    session.say(f"Loading model '{model}'")
    session.client.post("/api/generate", {"model": model, "stream": False})
    session.conversation.model = model
    session.conversation.messages.clear()


def _save(session: Session, rest: str) -> None:
    model = _one_word(rest, "/save <model>")
    for _ in session.client.stream("/api/create", session.conversation.saved(model), ended=succeeded):
        pass
    session.say(f"Created new model '{model}'")


def _show(session: Session, rest: str) -> None:
    part, chat = rest.strip() or "info", session.conversation
    if part not in ("info", *PARTS):
        raise InvalidRequest(f"unknown command '/show {part}'", hint="/? show")
    shown = session.client.post("/api/show", {"model": chat.model})
    if part == "info":
        session.say(description(shown))
        return
    text = part_of(shown, part)
    if part == "parameters":
        own = "\n".join(f"{name:<30} {value}" for name, value in chat.parameters())
        text = "\n\n".join(
            f"{title}:\n{lines}"
            for title, lines in (("Model defined parameters", text), ("User defined parameters", own))
            if lines
        )
    elif part == "system" and chat.system is not None:
        text = chat.system
    session.say(text or f"No {part} was specified for this model.")


def _set(session: Session, rest: str) -> None:
    words = rest.split(None, 1)
    name = words[0] if words else ""
    change = next((change for form, _, change in SETTINGS if name == form.partition(" ")[0]), None)
    if change is None:
        raise InvalidRequest(f"unknown command '{' '.join(['/set', *words])}'", hint="/? set")
    if isinstance(change, tuple):
        setattr(session, *change)
        session.say(f"Set '{name}' mode.")
    else:
        session.say(change(session, words[1] if len(words) > 1 else ""))


def _set_parameter(session: Session, rest: str) -> str:
    name, *values = rest.split() or [""]
    if not values:
        raise InvalidRequest("a parameter has a name and a value", hint="/set parameter temperature 0.7")
    session.conversation.set_parameter(name, values)
    return f"Set parameter '{name}' to '{', '.join(values)}'"


def _set_system(session: Session, rest: str) -> str:
    if not rest.strip():
        raise InvalidRequest("a system message has a text", hint='/set system "You answer in rhymes."')
    quoted = len(rest) > 1 and rest[0] == rest[-1] == '"'
    session.conversation.system = rest[1:-1] if quoted else rest
    return "Set system message."


def _set_format(session: Session, rest: str) -> str:
    if rest.strip() != "json":
        raise InvalidRequest("the only format is json", hint="/set format json")
    session.conversation.format = "json"
    return "Set format to 'json' mode."


def _set_noformat(session: Session, rest: str) -> str:
    session.conversation.format = None
    return "Disabled format."


def _set_think(session: Session, rest: str) -> str:
    level = rest.strip()
    if level and level not in THINK_LEVELS:
        raise InvalidRequest(f"unknown thinking level {level!r}", hint=f"one of {', '.join(THINK_LEVELS)}")
    session.conversation.think = level or True
    return f"Set 'think' mode to '{level}'." if level else "Set 'think' mode."


def _set_nothink(session: Session, rest: str) -> str:
    session.conversation.think = False
    return "Set 'nothink' mode."


def _one_word(rest: str, form: str) -> str:
    if len(rest.split()) != 1:
        raise InvalidRequest(f"write {form}")
    return rest.strip()


COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "/bye": _bye,
    "/exit": _bye,
    "/?": _help,
    "/help": _help,
    "/clear": _clear,
    "/list": _list,
    "/ls": _list,
    "/load": _load,
    "/save": _save,
    "/show": _show,
    "/set": _set,
}

SETTINGS: tuple[tuple[str, str, Callable[[Session, str], str] | tuple[str, bool]], ...] = (
    ("parameter <name> <value>...", "Set a sampling parameter", _set_parameter),
    ("system <string>", "Set the system message", _set_system),
    ("history", "Save the lines that you type", ("history", True)),
    ("nohistory", "Do not save the lines that you type", ("history", False)),
    ("wordwrap", "Break lines between words", ("wordwrap", True)),
    ("nowordwrap", "Do not break lines between words", ("wordwrap", False)),
    ("format json", "Answer in JSON", _set_format),
    ("noformat", "Answer in any format", _set_noformat),
    ("verbose", "Print durations, counts and rates", ("verbose", True)),
    ("quiet", "Print only the answers", ("verbose", False)),
    ("think [low|medium|high|max]", "Let the model think first", _set_think),
    ("nothink", "Let the model answer at once", _set_nothink),
)
"""The spelling of each setting, its effect, and its function, or an attribute of Session with its value."""
