"""What is wrong with the settings, as sentences with their sources. Pure: pydantic's errors in, faults out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from ollmlx.errors import ConfigError
from ollmlx.settings.keys import (
    OPEN_TABLES,
    KeyPath,
    field_at,
    is_list,
    is_secret,
    keys_of,
    sections,
    show_path,
    table_at,
)
from ollmlx.types import Options

if TYPE_CHECKING:
    from ollmlx.settings.sources import LoadedSettings

Kind = Literal["default", "file", "ollama", "variable", "command line"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. `name`: the file as it was asked for, the variable, or nothing."""

    kind: Kind
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.kind in ("default", "command line"):
            return self.kind
        return f"{self.name}, line {self.line}" if self.line else self.name


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: where, what, from which source, and the code whose runbook explains it."""

    path: KeyPath
    problem: str
    origin: Origin
    code: str

    def __str__(self) -> str:
        head = f"{show_path(self.path)}: " if self.path else ""
        return f"{head}{self.problem} ({self.origin}) {self.code}"


class InvalidSettings(ConfigError):
    """The settings cannot be used; carries every fault, and what the values without a fault make."""

    def __init__(self, faults: Sequence[Fault], sound: LoadedSettings) -> None:
        self.faults = tuple(faults)
        self.sound = sound
        lines = [str(fault) for fault in self.faults]
        text = lines[0] if len(lines) == 1 else f"{len(lines)} faults in the settings:\n  " + "\n  ".join(lines)
        super().__init__(text, code=self.faults[0].code)


def faults_of(error: ValidationError, raw: Mapping[str, Any], origin: Callable[[KeyPath], Origin]) -> list[Fault]:
    """Every fault of one source. `raw` is what was validated, `origin` tells where a key stands."""
    grouped: dict[KeyPath, list[Any]] = {}
    for item in error.errors(include_url=False):
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


def not_toml(shown: str, message: str, line: int | None, column: int | None) -> Fault:
    """The fault for text that is not TOML."""
    where = f" at column {column}" if column else ""
    return Fault((), f"not valid TOML: {_lower(message)}{where}", Origin("file", shown, line), "CFG002")


def unknown_key(path: KeyPath) -> str:
    """What to say of a key that does not exist, with the likely one."""
    name, parent = path[-1], path[:-1]
    likely, home = likely_key(path), _sections_with(name)
    if not parent:
        if home:
            return f"unknown section; {name!r} is a key of [{home[0]}]"
        return f"unknown section; did you mean [{likely}]?" if likely else "unknown section"
    if likely:
        return f"unknown key; did you mean {likely!r}?"
    if home:
        return f"unknown key; it belongs to [{home[0]}]"
    model = table_at(parent)
    known = list(keys_of(model)) if model else []
    return "unknown key" + (f"; there is {', '.join(known)}" if known and len(known) <= 12 else "")


def likely_key(path: KeyPath) -> str | None:
    """The key or section that was meant by one that does not exist."""
    if path[:1] == ("models",) and path[2:-1] == ("parameters",):
        known = list(Options.model_fields)
    elif len(path) > 1:
        model = table_at(path[:-1])
        known = list(keys_of(model)) if model else []
    else:
        known = [section for section, _ in sections()] + ["aliases", "models"]
        if _sections_with(path[0]):
            return None
    return next(iter(difflib.get_close_matches(path[-1].lower(), known, 1)), None)


def _sections_with(name: str) -> list[str]:
    return [section for section, model in sections() if name in keys_of(model)]


def _real_path(loc: Iterable[int | str], raw: Any) -> KeyPath:
    """The part of pydantic's location that exists in the data: labels of union members and list positions left out."""
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
        close = difflib.get_close_matches(
            str(items[0]["input"]).lower(), [w.strip("'") for w in wanted.replace(" or ", ", ").split(", ")], 1
        )
        guess = f"; did you mean {close[0]!r}?" if close and not is_secret(path) else ""
        return f"must be {wanted}{value}{guess}", "CFG004"
    text = sentence(path, others[0], value)
    return (f"{text}, or {literal}" if literal else text), "CFG004"


def sentence(path: KeyPath, item: Any, value: str | None = None) -> str:
    """One of pydantic's errors in plain words. `value`: how to end it; the refused value unless given."""
    value = f", not {_shown(item['input'])}" if value is None else value
    kind, context = item["type"], item.get("ctx", {})
    bounds = {
        "greater_than_equal": "at least",
        "less_than_equal": "at most",
        "greater_than": "more than",
        "less_than": "less than",
    }
    if kind in bounds:
        bound = next(iter(context.values()))
        return f"must be {bounds[kind]} {bound:g}{value}"
    if kind in ("value_error", "assertion_error"):
        return str(item["msg"]).partition(", ")[2] if not is_secret(path) else "the value is not usable"
    if kind == "tuple_type" or (
        is_list(field_at(path)) and kind.endswith("_type") and not isinstance(item["input"], list)
    ):
        return f'must be a list such as ["…"]{value}'
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a table{value}"
    if kind.startswith("bool"):
        return f"must be true or false{value}"
    if kind.startswith("int"):
        return f"must be a whole number{value}"
    if kind.startswith("float"):
        return f"must be a number{value}"
    if kind.startswith(("string", "path")):
        return f"must be text in quotes{value}"
    return f"{_lower(str(item['msg']))}{value}"


def plugin_table_fault(name: str, value: Any) -> str | None:
    """What to say of `[plugins] NAME = …`: only a table can belong to a plugin."""
    if isinstance(value, Mapping):
        return None
    model = table_at(OPEN_TABLES)
    close = difflib.get_close_matches(name, list(keys_of(model)) if model else [], 1)
    return (
        f"unknown key; did you mean {close[0]!r}?"
        if close
        else f"unknown key; a plugin's settings are a table [plugins.{name}]"
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "a table" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
