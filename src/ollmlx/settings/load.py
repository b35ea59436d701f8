"""Loading the settings of a process: read every source, report every fault, merge the sources, keep every origin."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.errors import ConfigError
from ollmlx.settings.faults import DEFAULT, Fault, Origin, faults_between_values, faults_of
from ollmlx.settings.files import find_file
from ollmlx.settings.keys import KeyPath
from ollmlx.settings.model import Settings
from ollmlx.settings.sources import TracedSource, from_command_line, from_file, from_ollama, from_variables


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
        if inside:
            return min(inside, key=lambda origin: origin.line or 0)
        while path and path not in self.sources:
            path = path[:-1]
        return self.sources.get(path, DEFAULT)


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
    file = find_file(config, environ, cwd or Path.cwd())
    files = (file[0],) if file else ()
    sources = [
        from_file(*file, faults) if file else TracedSource(),
        from_ollama(environ),
        from_variables(environ, faults),
        from_command_line(overrides or {}),
    ]
    warnings = [notice for source in sources for notice in source.removed_keys()]
    sources = [source.without(notice.path for notice in warnings) for source in sources]
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
