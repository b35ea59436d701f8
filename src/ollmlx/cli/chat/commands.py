"""The commands of the chat loop: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ollmlx.cli.chat.conversation import Conversation
from ollmlx.cli.chat.help import usage
from ollmlx.cli.client import Client
from ollmlx.errors import InvalidRequest

LEVELS = ("low", "medium", "high", "max")


@dataclass
class Session:
    """One chat loop: the conversation, and how it is shown. `say` prints a line for the person."""

    client: Client
    conversation: Conversation
    say: Callable[[str], None]
    wordwrap: bool = True
    verbose: bool = False
    history: bool = True
    over: bool = False


def execute(session: Session, line: str) -> None:
    """Do what a command says. Raises OllmlxError with what to say when it cannot be done."""
    words = line.split(None, 1)
    name, rest = words[0], words[1] if len(words) > 1 else ""
    command = COMMANDS.get(name)
    if command is None:
        raise InvalidRequest(f"unknown command '{name}'", hint="/? lists the commands")
    command(session, rest)


def _bye(session: Session, rest: str) -> None:
    session.over = True


def _help(session: Session, rest: str) -> None:
    session.say(usage(rest))


def _clear(session: Session, rest: str) -> None:
    session.conversation.messages.clear()
    session.say("Cleared session context")


def _list(session: Session, rest: str) -> None:
    from ollmlx.cli.list import models, models_table

    session.say(models_table(models(session.client, rest.strip())))


def _load(session: Session, rest: str) -> None:
    model = _one_word(rest, "/load <model>")
    session.say(f"Loading model '{model}'")
    session.client.post("/api/generate", {"model": model, "stream": False})
    session.conversation.model = model
    session.conversation.messages.clear()


def _save(session: Session, rest: str) -> None:
    from ollmlx.cli.progress import succeeded

    model = _one_word(rest, "/save <model>")
    for _ in session.client.stream("/api/create", session.conversation.saved(model), ended=succeeded):
        pass
    session.say(f"Created new model '{model}'")


def _show(session: Session, rest: str) -> None:
    from ollmlx.cli.show import PARTS, part_of, sections

    part, chat = rest.strip() or "info", session.conversation
    if part not in ("info", *PARTS):
        raise InvalidRequest(f"unknown command '/show {part}'", hint="/? show")
    shown = session.client.post("/api/show", {"model": chat.model})
    if part == "info":
        session.say(sections(shown))
        return
    text = part_of(shown, part)
    if part == "parameters":
        mine = "\n".join(f"{name:<30} {value}" for name, value in chat.parameters())
        text = "\n\n".join(
            f"{title}:\n{lines}"
            for title, lines in (("Model defined parameters", text), ("User defined parameters", mine))
            if lines
        )
    elif part == "system" and chat.system is not None:
        text = chat.system
    session.say(text or f"No {part} was specified for this model.")


def _set(session: Session, rest: str) -> None:
    words = rest.split(None, 1)
    setting = _SETTINGS.get(words[0]) if words else None
    if setting is None:
        raise InvalidRequest(f"unknown command '{' '.join(['/set', *words])}'", hint="/? set")
    session.say(setting(session, words[1] if len(words) > 1 else ""))


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
    if level and level not in LEVELS:
        raise InvalidRequest(f"unknown thinking level {level!r}", hint=f"one of {', '.join(LEVELS)}")
    session.conversation.think = level or True
    return f"Set 'think' mode to '{level}'." if level else "Set 'think' mode."


def _set_nothink(session: Session, rest: str) -> str:
    session.conversation.think = False
    return "Set 'nothink' mode."


def _set_wordwrap(session: Session, rest: str) -> str:
    session.wordwrap = True
    return "Set 'wordwrap' mode."


def _set_nowordwrap(session: Session, rest: str) -> str:
    session.wordwrap = False
    return "Set 'nowordwrap' mode."


def _set_verbose(session: Session, rest: str) -> str:
    session.verbose = True
    return "Set 'verbose' mode."


def _set_quiet(session: Session, rest: str) -> str:
    session.verbose = False
    return "Set 'quiet' mode."


def _set_history(session: Session, rest: str) -> str:
    session.history = True
    return "Set 'history' mode."


def _set_nohistory(session: Session, rest: str) -> str:
    session.history = False
    return "Set 'nohistory' mode."


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

_SETTINGS: dict[str, Callable[[Session, str], str]] = {
    "parameter": _set_parameter,
    "system": _set_system,
    "format": _set_format,
    "noformat": _set_noformat,
    "think": _set_think,
    "nothink": _set_nothink,
    "wordwrap": _set_wordwrap,
    "nowordwrap": _set_nowordwrap,
    "verbose": _set_verbose,
    "quiet": _set_quiet,
    "history": _set_history,
    "nohistory": _set_nohistory,
}
