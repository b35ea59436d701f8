"""Loading plugins, one by one: a broken one is a finding, not a crash.

pluggy's own entry-point loader stops at the first plugin that raises, so entry points are loaded here, and each hook is
called plugin by plugin.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from ollmlx.errors import ConfigError, PluginError
from ollmlx.errors.secrets import is_secret_key
from ollmlx.plugin import hookspecs
from ollmlx.plugin.contracts import PLUGIN_FILE_PREFIX, Backend, Check, Guarded, PluginContext, Source, Store, unguarded
from ollmlx.plugin.registry import RegisteredCheck, Registry, Shelf
from ollmlx.plugin.timeout import DeadlinePassed, within
from ollmlx.settings import Settings
from ollmlx.settings.faults import sentence
from ollmlx.settings.keys import KeyPath, is_secret, keys_of
from ollmlx.text.quantities import format_duration

logger = logging.getLogger(__name__)

GROUP = hookspecs.PROJECT
SLOW_SECONDS = 1.0
"""A plugin that takes longer delays every start, and is told so."""


@dataclass
class LoadedPlugin:
    """One plugin, loaded or not, as `ollmlx plugin list` shows it. `problem` is why it is off; None when it is on."""

    name: str
    origin: str
    """Where it came from: `ollmlx 0.1.0` for an entry point, a path for `[plugins] paths`."""
    version: str = ""
    module: Any = None
    settings_model: type[BaseModel] | None = None
    hooks: tuple[str, ...] = ()
    problem: str | None = None
    code: str | None = None
    hint: str | None = None
    line: int | None = None
    """Of the plugin's own file, where it raised."""
    late: bool = False
    """It did not finish loading in time."""
    seconds: float = 0.0
    """How long it took to import and to register."""

    @property
    def enabled(self) -> bool:
        return self.problem is None


@dataclass
class Plugins:
    """All plugins of one daemon and what they registered."""

    manager: pluggy.PluginManager
    loaded: list[LoadedPlugin] = field(default_factory=list)
    registry: Registry = field(default_factory=Registry)

    def enabled(self) -> Iterator[LoadedPlugin]:
        return (plugin for plugin in self.loaded if plugin.enabled)


def load_plugins(
    settings: Settings,
    *,
    points: tuple[EntryPoint, ...] | None = None,
    guarded: Guarded = unguarded,
    strict: bool = True,
) -> Plugins:
    """Import every plugin and let it register. `guarded` is for the processes they will start.

    Raises ConfigError when a required plugin is off, or when a table `[plugins.NAME]` belongs to none; not when it is
    not `strict`: then whoever asks wants to look at them."""
    plugins = Plugins(_manager())
    for plugin, load in _candidates(settings, points):
        plugins.loaded.append(plugin)
        _import(plugins, plugin, load, settings)
    for plugin in plugins.enabled():
        _guarded(plugins, plugin, settings, lambda p=plugin: _register_settings(plugins, p))  # type: ignore[misc]
    for plugin in plugins.enabled():
        _guarded(plugins, plugin, settings, lambda p=plugin: _register(plugins, p, settings, guarded))  # type: ignore[misc]
    for plugin in plugins.enabled():
        if plugin.seconds > SLOW_SECONDS:
            logger.warning("plugin %r took %.1f s to load", plugin.name, plugin.seconds)
    if strict:
        _refuse_without(plugins, settings)
    return plugins


def is_hidden(plugins: Plugins | None, path: KeyPath) -> bool:
    """Whether the value at a path must not be shown: by its name or mark, or because the plugin whose table it is in
    says so, by the key's type or mark."""
    if is_secret(path):
        return True
    if plugins is None or len(path) < 3 or path[0] != "plugins":
        return False
    model = next((one.settings_model for one in plugins.loaded if one.name == path[1]), None)
    field = model.model_fields.get(path[2]) if model is not None else None
    if field is None:
        return False
    extra = field.json_schema_extra
    marked = isinstance(extra, dict) and bool(extra.get("secret"))
    return marked or any(kind.__name__ in str(field.annotation) for kind in (SecretStr, SecretBytes))


def unclaimed_tables(plugins: Plugins, settings: Settings) -> dict[str, str | None]:
    """Each table `[plugins.NAME]` that belongs to no plugin, with the name that was likely meant."""
    names = {plugin.name for plugin in plugins.loaded}
    tables = [name for name in settings.plugins.model_extra or {} if name not in names]
    return {name: next(iter(difflib.get_close_matches(name, names, 1)), None) for name in tables}


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _candidates(
    settings: Settings, points: tuple[EntryPoint, ...] | None
) -> Iterator[tuple[LoadedPlugin, Callable[[], Any]]]:
    found = tuple(entry_points(group=GROUP)) if points is None else points
    # a distribution reads and parses its metadata each time it is asked
    described = {dist: (dist.name, dist.version) if dist else ("", "") for dist in {point.dist for point in found}}
    for point in sorted(found, key=lambda point: (described[point.dist][0] != GROUP, point.name)):
        name, version = described[point.dist]
        yield LoadedPlugin(point.name, f"{name} {version}" if name else point.value, version), point.load
    for path in settings.plugins.paths:
        path = path.expanduser()
        yield LoadedPlugin(path.stem, str(path)), lambda path=path: _load_path(path)  # type: ignore[misc]


def _load_path(path: Path) -> ModuleType:
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        what = "there is no __init__.py in this folder" if path.is_dir() else "there is no such file"
        raise PluginError(f"{path}: {what}", code="PLG001")
    name = f"{PLUGIN_FILE_PREFIX}{path.stem}"
    locations = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file", code="PLG001")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import(plugins: Plugins, plugin: LoadedPlugin, load: Callable[[], Any], settings: Settings) -> None:
    if plugin.name in settings.plugins.disabled:
        _switch_off(plugins, plugin, "switched off in [plugins] disabled")
        return
    if any(other.name == plugin.name and other is not plugin for other in plugins.loaded):
        _switch_off(plugins, plugin, f"another plugin is already called {plugin.name!r}", code="PLG003")
        return
    _guarded(plugins, plugin, settings, lambda: _load(plugins, plugin, load))


def _load(plugins: Plugins, plugin: LoadedPlugin, load: Callable[[], Any]) -> None:
    plugin.module = load()
    wanted = getattr(plugin.module, "ollmlx_api", hookspecs.API_VERSION)
    if wanted != hookspecs.API_VERSION:
        raise PluginError(
            f"it is written for plugin API {wanted}; this ollmlx has {hookspecs.API_VERSION}", code="PLG004"
        )
    plugins.manager.register(plugin.module, plugin.name)
    callers = plugins.manager.get_hookcallers(plugin.module) or []
    plugin.hooks = tuple(sorted(caller.name for caller in callers))
    unknown = [name for name in plugin.hooks if not hasattr(hookspecs, name)]
    if unknown:
        raise PluginError(f"it implements hooks that do not exist: {', '.join(unknown)}", code="PLG005")


def _register_settings(plugins: Plugins, plugin: LoadedPlugin) -> None:
    def register(model: type[BaseModel]) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PluginError(f"register_settings needs a pydantic model, got {model!r}", code="PLG005")
        plugin.settings_model = model

    _call(plugins, plugin, "register_settings", register=register)


def _register(plugins: Plugins, plugin: LoadedPlugin, settings: Settings, guarded: Guarded) -> None:
    context = PluginContext(settings=settings, own=_own_settings(plugin, settings), guarded=guarded)
    registry, owner = plugins.registry, plugin.name

    def kept(shelf: Shelf[Any], contract: type) -> Callable[[Any], None]:
        def register(item: Any) -> None:
            _expect(plugin, contract, item)
            shelf.add(item.name, item, owner)

        return register

    def route(name: str, make: Any) -> None:
        if not plugin.enabled or not isinstance(name, str) or not callable(make):
            raise PluginError(f"register_routes needs a name and a function, got {name!r} and {make!r}", code="PLG005")
        registry.routes.add(name, make, owner)

    def check(item: Any, runbooks: Any = None) -> None:
        _expect(plugin, Check, item)
        registry.checks.add(item.name, RegisteredCheck(item, runbooks), owner)

    _call(plugins, plugin, "register_backends", register=kept(registry.backends, Backend), context=context)
    _call(plugins, plugin, "register_stores", register=kept(registry.stores, Store), context=context)
    _call(plugins, plugin, "register_sources", register=kept(registry.sources, Source), context=context)
    _call(plugins, plugin, "register_routes", register=route, context=context)
    _call(plugins, plugin, "register_checks", register=check, context=context)


def _expect(plugin: LoadedPlugin, contract: type, item: Any) -> None:
    """Refuse what is not what the hook asks for, and whatever comes after the plugin was given up."""
    wanted = {*vars(contract), *contract.__annotations__}
    missing = sorted(name for name in wanted if not name.startswith("_") and not hasattr(item, name))
    if missing:
        raise PluginError(
            f"it registers a {type(item).__name__} as {contract.__name__}, without {', '.join(missing)}", code="PLG005"
        )
    if not plugin.enabled:
        raise PluginError("too late")


def _own_settings(plugin: LoadedPlugin, settings: Settings) -> BaseModel | None:
    table = settings.plugins.table(plugin.name)
    if plugin.settings_model is None:
        if table:
            raise PluginError(f"[plugins.{plugin.name}] is set, and the plugin takes no settings", code="CFG008")
        return None
    try:
        return plugin.settings_model.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(_own_fault(plugin.settings_model, item) for item in error.errors(include_url=False))
        raise PluginError(f"[plugins.{plugin.name}] {faults}", code="CFG008") from error


def _own_fault(model: type[BaseModel], item: Any) -> str:
    path = tuple(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        told = sentence(("plugins", *path), item, "" if any(map(is_secret_key, path)) else None)
        return f"{'.'.join(path)}: {told}"
    likely = next(iter(difflib.get_close_matches(path[-1], keys_of(model), 1)), None)
    return f"{'.'.join(path)}: unknown key" + (f"; did you mean {likely!r}?" if likely else "")


def _call(plugins: Plugins, plugin: LoadedPlugin, hook: str, **arguments: Any) -> None:
    """Call one hook of one plugin alone: what it raises belongs to it."""
    others = [p for _, p in plugins.manager.list_name_plugin() if p is not plugin.module and p is not None]
    plugins.manager.subset_hook_caller(hook, others)(**arguments)


def _guarded(plugins: Plugins, plugin: LoadedPlugin, settings: Settings, step: Callable[[], None]) -> None:
    limit = settings.plugins.load_timeout
    began = time.monotonic()
    try:
        within(limit, step, name=f"plugin-{plugin.name}")
    except DeadlinePassed:
        _switch_off(
            plugins,
            plugin,
            f"it did not finish loading within {format_duration(limit)}",
            code="PLG001",
            hint="raise load_timeout in [plugins], if it is only slow",
        )
        plugin.late = True
    except PluginError as error:
        _switch_off(plugins, plugin, error.message, code=error.code, hint=error.hint)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        _switch_off(
            plugins,
            plugin,
            f"cannot be imported: {error}",
            code="PLG001",
            hint=f"pip install {missing.replace('_', '-')}",
        )
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything at all
        _switch_off(plugins, plugin, f"{type(error).__name__}: {error}", code="PLG001")
        plugin.line = _line(error, plugin)
    finally:
        plugin.seconds += time.monotonic() - began


def _line(error: BaseException, plugin: LoadedPlugin) -> int | None:
    """Where in a plugin's own file it was raised."""
    own = {plugin.origin, f"{plugin.origin}/__init__.py"}
    if isinstance(error, SyntaxError) and error.filename in own:
        return error.lineno
    return next(
        (frame.lineno for frame in traceback.extract_tb(error.__traceback__)[::-1] if frame.filename in own), None
    )


def _switch_off(
    plugins: Plugins, plugin: LoadedPlugin, problem: str, *, code: str | None = None, hint: str | None = None
) -> None:
    plugin.problem, plugin.code, plugin.hint = problem, code, hint
    if plugin.module is not None and plugins.manager.is_registered(plugin.module):
        plugins.manager.unregister(plugin.module)
    plugins.registry.forget(plugin.name)
    if code is not None:
        logger.warning("plugin %r is switched off: %s (%s)", plugin.name, problem, code)


def _refuse_without(plugins: Plugins, settings: Settings) -> None:
    on = {plugin.name for plugin in plugins.enabled()}
    for name, likely in unclaimed_tables(plugins, settings).items():
        guess = f"; did you mean [plugins.{likely}]?" if likely else ""
        raise ConfigError(f"[plugins.{name}] is set, and no plugin is called {name!r}{guess}", code="CFG008")
    for name in settings.plugins.required:
        if name not in on:
            problem = next((plugin.problem for plugin in plugins.loaded if plugin.name == name), "it is not installed")
            raise ConfigError(f"required plugin {name!r} is off: {problem}", code="PLG006")
