"""Where settings come from: command line > OLLMLX_SECTION__KEY > OLLAMA_* > ollmlx.toml > default.

Every source is validated by itself, so that each fault is told with its own source, and all of them at once.
"""

from __future__ import annotations

import copy
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.settings.errors import DEFAULT, Fault, InvalidSettings, Origin, faults_of, not_toml, unreadable
from ollmlx.settings.files import find_file
from ollmlx.settings.keys import KeyPath, field_at, is_list, is_table, variable
from ollmlx.settings.lines import error_place, key_lines
from ollmlx.settings.meaning import faults_of_meaning
from ollmlx.settings.model import Settings
from ollmlx.settings.ollama import ollama_values

PREFIX = "OLLMLX_"
_MARKS = {b"\xef\xbb\xbf": "UTF-8 with a byte order mark", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Source:
    """The values of one origin: a tree as TOML would give it, and where each key stands."""

    tree: dict[str, Any]
    origins: dict[KeyPath, Origin]

    def origin(self, path: KeyPath) -> Origin:
        """Where a key stands; a key inside one that is known counts as standing there."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, DEFAULT)


@dataclass(frozen=True)
class Shadowed:
    """A value that a stronger source overrode."""

    path: KeyPath
    value: Any
    origin: Origin
    by: Origin


@dataclass(frozen=True)
class LoadedSettings:
    """The settings, the origin of each value that is no default, what was overridden, and the files read."""

    settings: Settings
    sources: dict[KeyPath, Origin] = field(default_factory=dict)
    shadowed: tuple[Shadowed, ...] = ()
    files: tuple[Path, ...] = ()

    def origin(self, path: KeyPath) -> Origin:
        """Where the value of a key came from; of a table, where its first key stands."""
        inside = [origin for key, origin in self.sources.items() if key[: len(path)] == path]
        if inside:
            return min(inside, key=lambda origin: origin.line or 0)
        while path and path not in self.sources:
            path = path[:-1]
        return self.sources.get(path, DEFAULT)


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> LoadedSettings:
    """The settings of a process. Raises InvalidSettings (a ConfigError) with every fault.

    config: the file of `--config`. overrides: values of the command line by dotted key (`server.host`), None is none.
    environ, cwd: of this process unless given.
    """
    environ = os.environ if environ is None else environ
    faults: list[Fault] = []
    file = find_file(config, environ, cwd or Path.cwd())
    sources = [
        _read_file(*file, faults) if file else Source({}, {}),
        _from_ollama(environ),
        _from_variables(environ, faults),
        _from_command_line(overrides or {}),
    ]
    sound: list[Source] = []
    for source in sources:
        try:
            Settings.model_validate(source.tree)
            sound.append(source)
        except ValidationError as error:
            own = faults_of(error, source.tree, source.origin)
            faults += own
            sound.append(_without(source, own))
    files = (file[0],) if file else ()
    if faults:
        raise InvalidSettings(faults, _joined(sound, files))
    loaded = _joined(sources, files)
    for path, problem, code in faults_of_meaning(loaded.settings):
        faults.append(Fault(path, problem, loaded.origin(path), code))
    if faults:
        raise InvalidSettings(faults, _joined((_without(source, faults) for source in sources), files))
    return loaded


def _joined(sources: Iterable[Source], files: tuple[Path, ...]) -> LoadedSettings:
    merged, origins, shadowed = _merge(sources)
    return LoadedSettings(Settings.model_validate(merged), origins, tuple(shadowed), files)


def _without(source: Source, faults: Iterable[Fault]) -> Source:
    """What is left of a source without its faulty values; nothing of it when that is still no settings."""
    tree = copy.deepcopy(source.tree)
    for fault in faults:
        table: Any = tree
        for part in fault.path[:-1]:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        if fault.path and isinstance(table, dict):
            table.pop(fault.path[-1], None)
    try:
        Settings.model_validate(tree)
    except ValidationError:
        return Source({}, {})
    return Source(tree, source.origins)


def _read_file(path: Path, shown: str, faults: list[Fault]) -> Source:
    try:
        data = path.read_bytes()
    except OSError as error:
        faults.append(unreadable(path, error, shown))
        return Source({}, {})
    try:
        text = _decode(data)
        tree = tomllib.loads(text)
    except UnicodeError as error:
        faults.append(not_toml(shown, error.args[-1], *_place(data, error)))
        return Source({}, {})
    except tomllib.TOMLDecodeError as error:
        faults.append(not_toml(shown, *error_place(error, text)))
        return Source({}, {})
    origins = {key: Origin("file", shown, line) for key, line in key_lines(text).items()}
    return Source(_anchored(tree, path.parent), {(): Origin("file", shown), **origins})


def _anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plugins named in a file are found from that file's folder, wherever the daemon is started."""
    plugins = tree.get("plugins")
    if isinstance(plugins, dict) and isinstance(paths := plugins.get("paths"), list):
        own = [isinstance(one, str) and not one.startswith("~") for one in paths]
        plugins["paths"] = [str(folder / one) if mine else one for one, mine in zip(paths, own, strict=True)]
    return tree


def _decode(data: bytes) -> str:
    for mark, name in (
        (b"\xef\xbb\xbf", "UTF-8 with a byte order mark"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ):
        if data.startswith(mark):
            raise UnicodeError(f"the file is saved as {name}; save it as plain UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError(
            error.encoding, error.object, error.start, error.end, "the file is not UTF-8"
        ) from error


def _place(data: bytes, error: UnicodeError) -> tuple[int, int]:
    before = data[: error.start] if isinstance(error, UnicodeDecodeError) else b""
    return before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1


def _from_ollama(environ: Mapping[str, str]) -> Source:
    source = Source({}, {})
    for name, path, value in ollama_values(environ):
        _put(source, path, value, Origin("ollama", name))
    return source


def _from_variables(environ: Mapping[str, str], faults: list[Fault]) -> Source:
    source = Source({}, {})
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name or not environ[name].strip():
            continue
        path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        origin = Origin("variable", name)
        if not all(path):
            faults.append(Fault((), f"write it {variable(('section', 'key'))}", origin, "CFG003"))
            continue
        try:
            _put(source, path, _parse(path, environ[name].strip()), origin)
        except ValueError as error:
            faults.append(Fault(path, str(error), origin, "CFG004"))
    return source


def _parse(path: KeyPath, text: str) -> Any:
    """A variable's text: lists as JSON or with commas, tables as JSON, anything else as it is."""
    found = field_at(path)
    if (is_list(found) and text.startswith("[")) or is_table(found):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from error
    if is_list(found):
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _from_command_line(overrides: Mapping[str, object]) -> Source:
    source = Source({}, {})
    for key, value in overrides.items():
        if value is not None:
            _put(source, tuple(key.split(".")), value, Origin("command line"))
    return source


def _put(source: Source, path: KeyPath, value: Any, origin: Origin) -> None:
    table = source.tree
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{variable(path[:-1])} is set too")  # noqa: TRY004 - a value of a variable, not a type
        table = inner
    table[path[-1]] = value
    source.origins[path] = origin


def _merge(sources: Iterable[Source]) -> tuple[dict[str, Any], dict[KeyPath, Origin], list[Shadowed]]:
    """One tree, the later source winning key by key, with the origin of each value and what it overrode."""
    merged: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    values: dict[KeyPath, Any] = {}
    shadowed: list[Shadowed] = []
    for source in sources:
        for path, value in _leaves(source.tree):
            origin = source.origin(path)
            if path in values and values[path] != value:
                shadowed.append(Shadowed(path, values[path], origins[path], origin))
            values[path], origins[path] = value, origin
            _put(Source(merged, {}), path, value, origin)
    return merged, origins, shadowed


def _leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    leaves: list[tuple[KeyPath, Any]] = []
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, dict) and value:
            leaves += _leaves(value, path)
        else:
            leaves.append((path, value))
    return leaves
