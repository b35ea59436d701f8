"""The sources of settings: each reads its values as one tree and remembers where every value was set.

`load` merges them: command line > OLLMLX_SECTION__KEY > Ollama's variables > settings file > default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from ollmlx.settings.faults import DEFAULT, Fault, Origin, not_toml, unreadable
from ollmlx.settings.files import NotToml, parse_toml
from ollmlx.settings.keys import REMOVED, KeyPath, is_list, variable
from ollmlx.settings.model import Settings
from ollmlx.text.quantities import FOREVER, parse_duration

PREFIX = "OLLMLX_"
_FALSE = {"0", "false", "f", "no", "off"}


class TracedSource(InitSettingsSource):
    """Values with the place where each of them was set."""

    def __init__(self, tree: dict[str, Any] | None = None, origins: Mapping[KeyPath, Origin] | None = None) -> None:
        self.tree = tree or {}
        self.origins = dict(origins or {})
        super().__init__(Settings, self.tree)

    def origin(self, path: KeyPath) -> Origin:
        """The place of a key; a key inside of a value that is known has the place of that value."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, DEFAULT)

    def without(self, paths: Iterable[KeyPath]) -> TracedSource:
        """This source without some of its keys."""
        tree = copy.deepcopy(self.tree)
        for path in paths:
            _remove(tree, path)
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
            Fault(path, f"this setting is gone: {instead}", self.origin(path), "CFG012")
            for path, instead in REMOVED.items()
            if _contains(self.tree, path)
        ]

    def leaves(self) -> list[tuple[KeyPath, Any]]:
        """Path and value of each key that is no table, or an empty one."""
        return _leaves(self.tree)


class _Variables(EnvSettingsSource):
    """The library's reader of nested variables. A list may also be written with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if is_list(field) and not value.startswith("["):
            return _split(value)
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:  # not JSON: the text stays, and its validation reports it
            return value


def from_file(path: Path, shown: str, faults: list[Fault]) -> TracedSource:
    """Read a settings file. What prevents that is added to `faults`. `shown` is the name of the file in messages."""
    try:
        tree, lines = parse_toml(path.read_bytes())
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
    return TracedSource(tree, {(): Origin("file", shown), **origins})


def from_variables(environ: Mapping[str, str], faults: list[Fault]) -> TracedSource:
    """Read the variables `OLLMLX_SECTION__KEY`. Empty ones do not count."""
    values: dict[str, str | None] = {}
    origins: dict[KeyPath, Origin] = {}
    for name in sorted(environ):
        text = environ[name].strip()
        if not name.startswith(PREFIX) or "__" not in name or not text:
            continue
        path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        origins[path] = Origin("variable", name)
        if all(path):
            values[name.lower()] = text
        else:
            faults.append(Fault((), f"write it {variable(('section', 'key'))}", origins[path], "CFG003"))
    reader = _Variables(Settings, case_sensitive=False, env_prefix=PREFIX, env_nested_delimiter="__")
    reader.env_vars = values
    tree = reader()
    for path, origin in list(origins.items()):
        if all(path) and path[0] not in Settings.model_fields:
            tree[path[0]] = {}  # the reader passes over it; its validation reports an unknown section
            origins[path[:1]] = origin
    return TracedSource(tree, origins)


def from_ollama(environ: Mapping[str, str]) -> TracedSource:
    """Read Ollama's own variables, as Ollama does: space and quotes around a value do not count."""
    source = TracedSource()
    for name, (path, read) in OLLAMA_VARIABLES.items():
        text = environ.get(name, "").strip().strip("\"'").strip()
        if text and (value := read(text)) is not None:
            source.tree.setdefault(path[0], {})[path[1]] = value
            source.origins[path] = Origin("ollama", name)
    return TracedSource(source.tree, source.origins)


def from_command_line(overrides: Mapping[str, object]) -> TracedSource:
    """Values by dotted key (`server.host`); None is no value."""
    tree: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    for key, value in overrides.items():
        if value is not None:
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
            origins[section, name] = Origin("command line")
    return TracedSource(tree, origins)


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


OLLAMA_VARIABLES: dict[str, tuple[KeyPath, Callable[[str], Any]]] = {
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


def _contains(tree: Any, path: KeyPath) -> bool:
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def _remove(tree: dict[str, Any], path: KeyPath) -> None:
    table: Any = tree
    for part in path[:-1]:
        table = table.get(part, {}) if isinstance(table, dict) else {}
    if path and isinstance(table, dict):
        table.pop(path[-1], None)


def _leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    leaves: list[tuple[KeyPath, Any]] = []
    for key, value in tree.items():
        path = (*prefix, key)
        leaves += _leaves(value, path) if isinstance(value, dict) and value else [(path, value)]
    return leaves
