"""Finding plugins: the entry points of installed packages, and the files and folders of `[plugins] paths`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from ollmlx.errors import PluginError
from ollmlx.plugin.contracts import import_file
from ollmlx.plugin.hookspecs import PROJECT
from ollmlx.settings import Settings


@dataclass
class LoadedPlugin:
    """One plugin, loaded or not, as `ollmlx plugin list` shows it. `problem`: the reason why it is off, or None."""

    name: str
    origin: str
    """`ollmlx 0.1.0` for an entry point, a path for `[plugins] paths`."""
    version: str = ""
    module: Any = None
    settings_model: type[BaseModel] | None = None
    hooks: tuple[str, ...] = ()
    problem: str | None = None
    code: str | None = None
    hint: str | None = None
    line: int | None = None
    """The line of the plugin's own file that raised."""
    own: bool = False
    """It is part of ollmlx."""
    late: bool = False
    """Loading did not end in time."""
    seconds: float = 0.0
    """Time that importing and registering took."""

    @property
    def enabled(self) -> bool:
        return self.problem is None

    def as_json(self) -> dict[str, Any]:
        """Return what `ollmlx plugin list --json` and the bundle of the doctor show; the fields are stable."""
        shown = ("name", "version", "origin", "hooks", "enabled", "problem", "code", "hint")
        return {name: getattr(self, name) for name in shown} | {"seconds": round(self.seconds, 3)}


Candidate = tuple[LoadedPlugin, Callable[[], Any]]
"""A plugin that is not loaded yet, and the function that imports it."""


def find_plugins(settings: Settings, points: tuple[EntryPoint, ...] | None = None) -> Iterator[Candidate]:
    """Every plugin: ollmlx's own, then other packages', then files. `points`: instead of the installed entry points."""
    found = tuple(entry_points(group=PROJECT)) if points is None else points
    # a distribution reads and parses its metadata each time it is asked
    described = {dist: (dist.name, dist.version) if dist else ("", "") for dist in {point.dist for point in found}}
    for point in sorted(found, key=lambda point: (described[point.dist][0] != PROJECT, point.name)):
        name, version = described[point.dist]
        yield _of_package(point, name, version), point.load
    for path in settings.plugins.paths:
        path = path.expanduser()
        yield LoadedPlugin(path.stem, str(path)), partial(_import_path, path)


def _of_package(point: EntryPoint, name: str, version: str) -> LoadedPlugin:
    origin = f"{name} {version}" if name else point.value
    return LoadedPlugin(point.name, origin, version, own=name == PROJECT)


def _import_path(path: Path) -> ModuleType:
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        problem = "there is no __init__.py in this folder" if path.is_dir() else "there is no such file"
        raise PluginError(f"{path}: {problem}", code="PLG001")
    return import_file(file)
