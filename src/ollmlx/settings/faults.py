"""The faults of settings, as sentences with their sources: of single values, and between values. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.errors.secrets import mask_text
from ollmlx.model.names import ModelName
from ollmlx.settings.files import NotToml
from ollmlx.settings.keys import (
    NAMED,
    KeyPath,
    closest,
    field_at,
    is_list,
    is_secret,
    keys_of,
    sections,
    show_path,
    table_at,
)
from ollmlx.settings.model import Settings
from ollmlx.types import Options

Kind = Literal["default", "file", "ollama", "variable", "command line"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a value. `name`: the file as the user named it, the variable, or nothing."""

    kind: Kind
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.kind in ("default", "command line"):
            return self.kind
        return f"{self.name}, line {self.line}" if self.line else self.name


DEFAULT = Origin("default")
_Found = tuple[KeyPath, str, str]  # path, problem, code
_BOUNDS = {
    "greater_than_equal": "at least",
    "less_than_equal": "at most",
    "greater_than": "more than",
    "less_than": "less than",
}
_KINDS = (
    (("model_type", "dict_type", "model_attributes_type"), "a table"),
    (("bool",), "true or false"),
    (("int",), "a whole number"),
    (("float",), "a number"),
    (("string", "path"), "text in quotes"),
)
"""The beginnings of pydantic's kinds of errors about a type, and the type in words."""


MOST_FAULTS = 100
"""Errors of one source that are told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the key, the problem, the source, and the code whose runbook explains it."""

    path: KeyPath
    problem: str
    origin: Origin
    code: str

    def __str__(self) -> str:
        head = f"{show_path(self.path)}: " if self.path else ""
        return mask_text(f"{head}{self.problem} ({self.origin}) {self.code}")


def faults_of(error: ValidationError, raw: Mapping[str, Any], origin: Callable[[KeyPath], Origin]) -> list[Fault]:
    """The faults of one source, from pydantic's errors. `raw`: the values. `origin`: gives the place of a key."""
    grouped: dict[KeyPath, list[Any]] = {}
    for item in error.errors(include_url=False)[:MOST_FAULTS]:
        grouped.setdefault(_real_path(item["loc"], raw), []).append(item)
    faults = []
    for path, items in grouped.items():
        problem, code = _problem(path, items)
        faults.append(Fault(path, problem, origin(path), code))
    return faults


def unreadable(path: Path, error: OSError, shown: str) -> Fault:
    """The fault for a settings file that cannot be read."""
    if isinstance(error, IsADirectoryError) or path.is_dir():
        problem = "this is a folder, not a settings file"
    elif isinstance(error, FileNotFoundError):
        problem = "there is no such settings file"
    elif isinstance(error, PermissionError):
        problem = "the settings file may not be read: permission denied"
    else:
        problem = f"the settings file cannot be read: {error.strerror or error}"
    return Fault((), problem, Origin("file", shown), "CFG001")


def not_toml(shown: str, error: NotToml) -> Fault:
    """The fault for text that is not TOML."""
    problem = f"not valid TOML: {_lower(error.message)} at column {error.column}"
    return Fault((), problem, Origin("file", shown, error.line), "CFG001")


def unknown_key(path: KeyPath) -> str:
    """The problem of a key that does not exist, with the key that was likely meant."""
    name, parent = path[-1], path[:-1]
    likely, home = likely_key(path), _section_with(name)
    if not parent:
        if home:
            return f"unknown section; {name!r} is a key of [{home}]"
        return f"unknown section; did you mean [{likely}]?" if likely else "unknown section"
    if likely:
        return f"unknown key; did you mean {likely!r}?"
    if home:
        return f"unknown key; it belongs to [{home}]"
    model = table_at(parent)
    known = list(keys_of(model)) if model else []
    return "unknown key" + (f"; there is {', '.join(known)}" if known and len(known) <= 12 else "")


def likely_key(path: KeyPath) -> str | None:
    """The key or section that was likely meant by one that does not exist."""
    if path[:1] == ("models",) and path[2:-1] == ("parameters",):
        known = list(Options.model_fields)
    elif len(path) > 1:
        model = table_at(path[:-1])
        known = list(keys_of(model)) if model else []
    else:
        known = [section for section, _ in sections()] + ["aliases", "models"]
        if _section_with(path[0]):
            return None
    return closest(path[-1].lower(), known)


def _section_with(name: str) -> str | None:
    return next((section for section, model in sections() if name in keys_of(model)), None)


def _real_path(loc: Iterable[int | str], raw: Any) -> KeyPath:
    """The part of pydantic's location that exists in the data, without labels of union members and list positions."""
    path: list[str] = []
    for part in loc:
        if not isinstance(raw, Mapping) or part not in raw:
            break
        path.append(str(part))
        raw = raw[part]
    return tuple(path)


def _problem(path: KeyPath, items: Sequence[Any]) -> tuple[str, str]:
    kinds = {item["type"] for item in items}
    if "extra_forbidden" in kinds:
        return unknown_key(path), "CFG003"
    literal = next((item["ctx"]["expected"] for item in items if item["type"] == "literal_error"), None)
    others = [item for item in items if item["type"] != "literal_error"]
    value = "" if is_secret(path) else f", not {_shown(items[0]['input'])}"
    if not others:
        wanted = str(literal)
        close = closest(str(items[0]["input"]).lower(), re.findall(r"'([^']+)'", wanted))
        guess = f"; did you mean {close!r}?" if close and not is_secret(path) else ""
        return f"must be {wanted}{value}{guess}", "CFG004"
    text = sentence(path, others[0], value)
    return (f"{text}, or {literal}" if literal else text), "CFG004"


def sentence(path: KeyPath, item: Any, value: str | None = None) -> str:
    """One of pydantic's errors in plain words. `value`: the end of the sentence; the refused value unless given."""
    value = f", not {_shown(item['input'])}" if value is None else value
    kind, context = item["type"], item.get("ctx", {})
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind]} {next(iter(context.values())):g}{value}"
    if kind in ("value_error", "assertion_error"):
        told = not is_secret(path) or path[:-1] in NAMED  # of a table, not of a value in it
        return str(item["msg"]).partition(", ")[2] if told else "the value is not usable"
    if kind == "tuple_type" or (
        is_list(field_at(path)) and kind.endswith("_type") and not isinstance(item["input"], list)
    ):
        return f'must be a list such as ["…"]{value}'
    wanted = next((words for beginnings, words in _KINDS if kind.startswith(beginnings)), None)
    return f"must be {wanted}{value}" if wanted else f"{_lower(str(item['msg']))}{value}"


def faults_between_values(settings: Settings, origin: Callable[[KeyPath], Origin]) -> list[Fault]:
    """The faults that no single value has: bad model names, one model spelt in two ways, aliases that loop."""
    found = [*_plugin_keys(settings), *_names(settings), *_parameters(settings), *_loops(settings)]
    return [Fault(path, problem, origin(path), code) for path, problem, code in found]


def _plugin_keys(settings: Settings) -> Iterator[_Found]:
    """Under [plugins], only a table can belong to a plugin."""
    for name, value in (settings.plugins.model_extra or {}).items():
        if not isinstance(value, Mapping):
            close = closest(name, keys_of(type(settings.plugins)))
            guess = f"did you mean {close!r}?" if close else f"a plugin's settings are a table [plugins.{name}]"
            yield ("plugins", name), f"unknown key; {guess}", "CFG003"


def _names(settings: Settings) -> Iterator[_Found]:
    for section, table in (("models", settings.models), ("aliases", settings.aliases)):
        seen: dict[ModelName, str] = {}
        for written in table:
            name, problem = _parsed(written)
            if name is None:
                yield (section, written), problem, "CFG004"
            elif name in seen:
                yield (section, written), f"is the same model name as {seen[name]!r}", "CFG004"
            else:
                seen[name] = written
    for written, target in settings.aliases.items():
        if _parsed(target)[0] is None:
            yield ("aliases", written), _parsed(target)[1], "CFG004"
    for written, model in settings.models.items():
        if model.from_ is not None and _parsed(model.from_)[0] is None:
            yield ("models", written, "from"), _parsed(model.from_)[1], "CFG004"
    for key, limits in settings.security.keys.items():
        for written in limits.models:
            if "*" not in written and _parsed(written)[0] is None:
                yield ("security", "keys", key, "models"), _parsed(written)[1], "CFG004"
    for index, written in enumerate(settings.security.allow_remote_code):
        if _parsed(written)[0] is None:
            yield ("security", "allow_remote_code"), f"entry {index + 1}: {_parsed(written)[1]}", "CFG004"


def _parsed(text: str) -> tuple[ModelName | None, str]:
    try:
        return ModelName.parse(text), ""
    except InvalidRequest as error:
        return None, error.message


def _parameters(settings: Settings) -> Iterator[_Found]:
    for name, model in settings.models.items():
        try:
            Options.model_validate(model.parameters)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                path = ("models", name, "parameters", *map(str, item["loc"][:1]))
                if item["type"] == "extra_forbidden":
                    yield path, unknown_key(path), "CFG003"
                else:
                    yield path, sentence(path, item), "CFG004"


def _loops(settings: Settings) -> Iterator[_Found]:
    """Each loop of aliases once, at the alias that closes it."""
    targets = {}
    written = {}
    for alias, target in settings.aliases.items():
        name, goal = _parsed(alias)[0], _parsed(target)[0]
        if name is not None and goal is not None:
            targets[name], written[name] = goal, alias
    seen: set[ModelName] = set()
    for start in targets:
        trail = [start]
        while (goal := targets.get(trail[-1])) is not None and goal not in trail:
            trail.append(goal)
        if goal is not None and goal == start and start not in seen:
            seen |= set(trail)
            loop = " -> ".join(name.short for name in [*trail, start])
            yield ("aliases", written[start]), f"the aliases loop: {loop}", "CFG004"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "a table" if isinstance(value, Mapping) else mask_text(repr(value))
    return text if len(text) <= 60 else text[:57] + "…"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
