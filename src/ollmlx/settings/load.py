"""Loading the settings of a process: read every source, report every fault, merge the sources, keep every origin.

Order: command line > OLLMLX_SECTION__KEY > Ollama's variables > settings file > default.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from ollmlx.errors import ConfigError
from ollmlx.settings.faults import DEFAULT, Fault, Origin, faults_between_values, faults_of, not_toml, unreadable
from ollmlx.settings.files import LARGEST, NotToml, SettingsFile, find_file, parse_toml, user_file, working_folder
from ollmlx.settings.keys import REMOVED, KeyPath, is_list, variable
from ollmlx.settings.model import Settings
from ollmlx.settings.trust import TrustedFiles, refusal, restricted_part
from ollmlx.text.quantities import FOREVER, parse_duration

MOST_TOLD = 20
"""Ignored keys of a file that are named."""
PREFIX = "OLLMLX_"
_FALSE = {"0", "false", "f", "no", "off"}


@dataclass(frozen=True)
class Shadowed:
    """A value that a stronger source overrode."""

    path: KeyPath
    value: Any
    origin: Origin
    by: Origin


@dataclass(frozen=True)
class LoadedSettings:
    """The settings, the origin of each value that is no default, the values that were overridden, and the files read.

    `warnings`: notices that do not make the settings unusable, such as keys that an earlier version had.
    """

    settings: Settings
    sources: dict[KeyPath, Origin] = field(default_factory=dict)
    shadowed: tuple[Shadowed, ...] = ()
    files: tuple[Path, ...] = ()
    warnings: tuple[Fault, ...] = ()

    def origin(self, path: KeyPath) -> Origin:
        """The origin of a key's value; for a table, the place of its first key."""
        inside = [origin for key, origin in self.sources.items() if key[: len(path)] == path]
        return min(inside, key=lambda origin: origin.line or 0) if inside else _nearest(self.sources, path)


class InvalidSettings(ConfigError):
    """The settings cannot be used. `faults`: every fault. `sound`: the settings without the faulty values."""

    def __init__(self, faults: Sequence[Fault], sound: LoadedSettings) -> None:
        self.faults = tuple(faults)
        self.sound = sound
        lines = [str(fault) for fault in self.faults]
        text = lines[0] if len(lines) == 1 else f"{len(lines)} faults in the settings:\n  " + "\n  ".join(lines)
        super().__init__(text, code=self.faults[0].code)


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> LoadedSettings:
    """Load the settings of a process. Raises InvalidSettings (a ConfigError) with every fault.

    config: the file of `--config`. overrides: values of the command line by dotted key (`server.host`), None is none.
    environ, cwd: of this process unless given.
    """
    environ = os.environ if environ is None else environ
    faults: list[Fault] = []
    file = find_file(config, environ, cwd or working_folder())
    ignored: list[Fault] = []
    if file and file.found and (reason := refusal(file.path)) is not None:
        ignored.append(Fault((), f"this settings file is ignored: {reason}", Origin("file", file.shown), "CFG013"))
        file = user_file(environ)
    files = (file.path,) if file else ()
    sources = [
        _from_file(file, faults, ignored, TrustedFiles(environ)) if file else TracedSource(),
        _from_ollama(environ),
        _from_variables(environ, faults),
        _from_command_line(overrides or {}),
    ]
    warnings = [notice for source in sources for notice in source.removed_keys()]
    sources = [source.without(notice.path for notice in warnings) for source in sources]
    warnings += ignored
    sound = []
    for source in sources:  # each source alone, so that a fault is reported also when a stronger source hides it
        try:
            Settings.from_sources([source])
            sound.append(source)
        except ValidationError as error:
            own = faults_of(error, source.tree, source.origin)
            faults += own
            sound.append(source.sound(own))
    loaded = _merge(sound, files, warnings)
    if faults:
        raise InvalidSettings(faults, loaded)
    faults = faults_between_values(loaded.settings, loaded.origin)
    if faults:
        raise InvalidSettings(faults, _merge([source.sound(faults) for source in sources], files, warnings))
    return loaded


class TracedSource(InitSettingsSource):
    """Values as one tree, with the place where each of them was set."""

    def __init__(self, tree: dict[str, Any] | None = None, origins: Mapping[KeyPath, Origin] | None = None) -> None:
        self.tree = tree or {}
        self.origins = dict(origins or {})
        super().__init__(Settings, self.tree)

    def origin(self, path: KeyPath) -> Origin:
        """The place of a key; a key inside of a value that is known has the place of that value."""
        return _nearest(self.origins, path)

    def without(self, paths: Iterable[KeyPath]) -> TracedSource:
        """This source without some of its keys."""
        tree = copy.deepcopy(self.tree)
        for *parents, key in filter(None, paths):
            table = _value_at(tree, parents)
            if isinstance(table, dict):
                table.pop(key, None)
        return TracedSource(tree, self.origins)

    def sound(self, faults: Iterable[Fault]) -> TracedSource:
        """This source without its faulty values; an empty source when the rest is still invalid."""
        rest = self.without(fault.path for fault in faults)
        try:
            Settings.from_sources([rest])
        except ValidationError:
            return TracedSource()
        return rest

    def removed_keys(self) -> list[Fault]:
        """A notice for each key that an earlier version had."""
        return [
            Fault(path, f"this setting is gone: {instead}", self.origin(path), "CFG003")
            for path, instead in REMOVED.items()
            if _value_at(self.tree, path) is not None
        ]

    def leaves(self) -> Iterator[tuple[KeyPath, Any]]:
        """Path and value of each key that is no table, or an empty one."""
        return _leaves(self.tree)


def _merge(sources: Sequence[TracedSource], files: tuple[Path, ...], warnings: Iterable[Fault]) -> LoadedSettings:
    """Merge sources, the weakest first, with the origin of each value and the values that were overridden."""
    origins: dict[KeyPath, Origin] = {}
    values: dict[KeyPath, Any] = {}
    shadowed: list[Shadowed] = []
    for source in sources:
        for path, value in source.leaves():
            origin = source.origin(path)
            if path in values and values[path] != value:
                shadowed.append(Shadowed(path, values[path], origins[path], origin))
            values[path], origins[path] = value, origin
    settings = Settings.from_sources(sources[::-1])
    return LoadedSettings(settings, origins, tuple(shadowed), files, tuple(warnings))


def _nearest(origins: Mapping[KeyPath, Origin], path: KeyPath) -> Origin:
    """The origin of a key, or of the value that holds it."""
    while path and path not in origins:
        path = path[:-1]
    return origins.get(path, DEFAULT)


def _value_at(tree: Any, path: Iterable[str]) -> Any:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


# -- the sources -------------------------------------------------------------------------------------------------------


def _from_file(file: SettingsFile, faults: list[Fault], ignored: list[Fault], trusted: TrustedFiles) -> TracedSource:
    """Read a settings file. What prevents that is added to `faults`, and to `ignored` what it may not set."""
    path, shown, found = file
    try:
        with path.open("rb") as opened:
            data = opened.read(LARGEST + 1)
        tree, lines = parse_toml(data)
    except OSError as error:
        faults.append(unreadable(path, error, shown))
        return TracedSource()
    except NotToml as error:
        faults.append(not_toml(shown, error))
        return TracedSource()
    plugins = tree.get("plugins")
    if isinstance(plugins, dict) and isinstance(paths := plugins.get("paths"), list):
        # relative paths mean the same wherever the daemon is started
        plugins["paths"] = [
            str(path.parent / one) if isinstance(one, str) and not one.startswith("~") else one for one in paths
        ]
    origins = {key: Origin("file", shown, line) for key, line in lines.items()}
    source = TracedSource(tree, {(): Origin("file", shown), **origins})
    return source if not found or trusted.has(path, data) else _unrestricted(source, ignored)


def _unrestricted(source: TracedSource, ignored: list[Fault]) -> TracedSource:
    """Leave out what only a trusted file may set, unless the value is the default."""
    parts = {path: part for path, _ in source.leaves() if (part := restricted_part(path)) is not None}
    for path in islice(parts, MOST_TOLD):
        others = [other for other, _ in source.leaves() if other != path]
        if not _is_default(source.without(others)):
            problem = "ignored, because this file was found and is not trusted; ollmlx config trust"
            ignored.append(Fault(path, problem, source.origin(path), "CFG013"))
    return source.without(dict.fromkeys(parts.values()))


def _is_default(source: TracedSource) -> bool:
    try:
        return Settings.from_sources([source]) == Settings.from_sources([TracedSource()])
    except ValidationError:
        return False


class _Variables(EnvSettingsSource):
    """The library's reader of nested variables. A list may also be written with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if is_list(field) and not value.startswith("["):
            return _split(value)
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:  # not JSON: the text stays, and its validation reports it
            return value


def _from_variables(environ: Mapping[str, str], faults: list[Fault]) -> TracedSource:
    """Read the variables `OLLMLX_SECTION__KEY`. Empty ones do not count."""
    values: dict[str, str | None] = {}
    origins: dict[KeyPath, Origin] = {}
    for name in sorted(environ):
        text = environ[name].strip()
        if not name.startswith(PREFIX) or "__" not in name or not text:
            continue
        path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        origin = Origin("variable", name)
        if all(path):
            values[name.lower()], origins[path] = text, origin
        else:
            faults.append(Fault((), f"write it {variable(('section', 'key'))}", origin, "CFG003"))
    reader = _Variables(Settings, case_sensitive=False, env_prefix=PREFIX, env_nested_delimiter="__")
    reader.env_vars = values
    tree = reader()
    for path, origin in list(origins.items()):
        if path[0] not in Settings.model_fields:
            tree[path[0]] = {}  # the reader passes over it; its validation reports an unknown section
            origins[path[:1]] = origin
    return TracedSource(tree, origins)


def _from_ollama(environ: Mapping[str, str]) -> TracedSource:
    """Read Ollama's own variables, as Ollama does: space and quotes around a value do not count."""
    tree: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    for name, ((section, key), read) in OLLAMA_VARIABLES.items():
        text = environ.get(name, "").strip().strip("\"'").strip()
        if text and (value := read(text)) is not None:
            tree.setdefault(section, {})[key] = value
            origins[section, key] = Origin("ollama", name)
    return TracedSource(tree, origins)


def _from_command_line(overrides: Mapping[str, object]) -> TracedSource:
    """Values by dotted key (`server.host`); None is no value."""
    tree: dict[str, Any] = {}
    for dotted_key, value in overrides.items():
        if value is not None:
            section, _, key = dotted_key.partition(".")
            tree.setdefault(section, {})[key] = value
    return TracedSource(tree, {(): Origin("command line")})


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _load_timeout(text: str) -> str | float:
    """For Ollama, zero and less mean no limit."""
    try:
        return FOREVER if parse_duration(text) <= 0 else text
    except ValueError:
        return text


def _debug(text: str) -> str | None:
    """For Ollama, any value that is not false switches it on."""
    return None if text.lower() in _FALSE else "debug"


OLLAMA_VARIABLES: dict[str, tuple[tuple[str, str], Callable[[str], Any]]] = {
    "OLLAMA_HOST": (("server", "host"), str),
    "OLLAMA_ORIGINS": (("server", "origins"), _split),
    "OLLAMA_MODELS": (("storage", "models"), str),
    "OLLAMA_KEEP_ALIVE": (("runners", "keep_alive"), str),
    "OLLAMA_NUM_PARALLEL": (("runners", "parallel"), str),
    "OLLAMA_MAX_LOADED_MODELS": (("runners", "max_loaded_models"), str),
    "OLLAMA_MAX_QUEUE": (("runners", "max_queue"), str),
    "OLLAMA_LOAD_TIMEOUT": (("runners", "load_timeout"), _load_timeout),
    "OLLAMA_CONTEXT_LENGTH": (("runners", "context_length"), str),
    "OLLAMA_KV_CACHE_TYPE": (("runners", "kv_cache_type"), str),
    "OLLAMA_DEBUG": (("logging", "level"), _debug),
}
"""Each variable of Ollama's that ollmlx honours, the setting it stands for, and the function that reads its text."""
