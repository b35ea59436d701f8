"""Loading plugins one by one: a broken plugin is switched off and reported, and the others work.

pluggy's own entry-point loader stops at the first plugin that raises, so each entry point is imported here, and each
hook is called for one plugin at a time.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

import pluggy
from pydantic import BaseModel, ValidationError

from ollmlx.errors import ConfigError, PluginError
from ollmlx.errors.secrets import is_secret_key
from ollmlx.plugin import hookspecs
from ollmlx.plugin.contracts import Backend, Check, Guarded, PluginContext, Source, Store, unguarded
from ollmlx.plugin.discovery import LoadedPlugin, find_plugins
from ollmlx.plugin.registry import PluginItems, RegisteredCheck, Registry
from ollmlx.settings import Settings
from ollmlx.settings.faults import sentence
from ollmlx.settings.keys import KeyPath, closest, is_marked_secret, is_secret, keys_of
from ollmlx.text.quantities import format_duration

logger = logging.getLogger(__name__)
T = TypeVar("T")

SLOW_SECONDS = 1.0
"""A plugin that takes longer to load is named in the log, because it delays every start."""


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
    wanted: Callable[[LoadedPlugin], bool] = lambda _: True,
    judge: Callable[[LoadedPlugin], None] = lambda _: None,
) -> Plugins:
    """Import every plugin and call its hooks.

    points: entry points instead of the installed ones. guarded: protects the processes that plugins will start.
    strict: raise ConfigError if a required plugin is off, or if a table `[plugins.NAME]` belongs to no plugin.
    wanted: return False for a plugin to pass over. judge: may set the problem of a plugin, which then is not imported.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for plugin, load in find_plugins(settings, points):
        if wanted(plugin):
            plugins.loaded.append(plugin)
            _import(plugins, plugin, load, settings, judge)
    for plugin in plugins.enabled():
        _attempt(plugins, plugin, settings, partial(_register_settings, plugins, plugin))
    for plugin in plugins.enabled():
        _attempt(plugins, plugin, settings, partial(_register, plugins, plugin, settings, guarded))
    for plugin in plugins.enabled():
        if plugin.seconds > SLOW_SECONDS:
            logger.warning("plugin %r took %.1f s to load", plugin.name, plugin.seconds)
    if strict:
        _require_plugins(plugins, settings)
    return plugins


def is_hidden(plugins: Plugins | None, path: KeyPath) -> bool:
    """True if the value at a path must be masked: by its name, or by its type or mark in the settings model."""
    if is_secret(path):
        return True
    if plugins is None or len(path) < 3 or path[0] != "plugins":
        return False
    model = next((one.settings_model for one in plugins.loaded if one.name == path[1]), None)
    field = model.model_fields.get(path[2]) if model else None
    return is_marked_secret(field) or (field is not None and "Secret" in str(field.annotation))  # SecretStr and so on


def unclaimed_tables(plugins: Plugins, settings: Settings) -> dict[str, str | None]:
    """The tables `[plugins.NAME]` that belong to no plugin, each with the name that was likely meant."""
    names = {plugin.name for plugin in plugins.loaded}
    return {name: closest(name, names) for name in settings.plugins.model_extra or {} if name not in names}


def _import(
    plugins: Plugins,
    plugin: LoadedPlugin,
    load: Callable[[], Any],
    settings: Settings,
    judge: Callable[[LoadedPlugin], None],
) -> None:
    if plugin.name in settings.plugins.disabled:
        _switch_off(plugins, plugin, "switched off in [plugins] disabled")
        return
    if any(other.name == plugin.name and other is not plugin for other in plugins.loaded):
        _switch_off(plugins, plugin, f"another plugin is already called {plugin.name!r}", code="PLG003")
        return
    judge(plugin)
    if plugin.problem is not None:
        _switch_off(plugins, plugin, plugin.problem, code=plugin.code, hint=plugin.hint)
        return
    _attempt(plugins, plugin, settings, partial(_load, plugins, plugin, load))


def _load(plugins: Plugins, plugin: LoadedPlugin, load: Callable[[], Any]) -> None:
    plugin.module = load()
    wanted = getattr(plugin.module, "ollmlx_api", hookspecs.API_VERSION)
    if wanted != hookspecs.API_VERSION:
        problem = f"it is written for plugin API {wanted}; this ollmlx has {hookspecs.API_VERSION}"
        raise PluginError(problem, code="PLG004")
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
    registry = plugins.registry

    def into(items: PluginItems[Any], contract: type) -> Callable[[Any], None]:
        def register(item: Any) -> None:
            _check_contract(plugin, contract, item)
            items.add(item.name, item, plugin.name)

        return register

    def route(name: str, make: Any) -> None:
        if not plugin.enabled or not isinstance(name, str) or not callable(make):
            raise PluginError(f"register_routes needs a name and a function, got {name!r} and {make!r}", code="PLG005")
        registry.routes.add(name, make, plugin.name)

    def check(item: Any, runbooks: Any = None) -> None:
        _check_contract(plugin, Check, item)
        registry.checks.add(item.name, RegisteredCheck(item, runbooks), plugin.name)

    _call(plugins, plugin, "register_backends", register=into(registry.backends, Backend), context=context)
    _call(plugins, plugin, "register_stores", register=into(registry.stores, Store), context=context)
    _call(plugins, plugin, "register_sources", register=into(registry.sources, Source), context=context)
    _call(plugins, plugin, "register_routes", register=route, context=context)
    _call(plugins, plugin, "register_checks", register=check, context=context)


def _check_contract(plugin: LoadedPlugin, contract: type, item: Any) -> None:
    """Refuse an object that lacks a part of its contract, and any object after the plugin was switched off."""
    wanted = {*vars(contract), *contract.__annotations__}
    missing = sorted(name for name in wanted if not name.startswith("_") and not hasattr(item, name))
    if missing:
        problem = f"it registers a {type(item).__name__} as {contract.__name__}, without {', '.join(missing)}"
        raise PluginError(problem, code="PLG005")
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
        problem = sentence(("plugins", *path), item, "" if any(map(is_secret_key, path)) else None)
        return f"{'.'.join(path)}: {problem}"
    likely = closest(path[-1], keys_of(model))
    return f"{'.'.join(path)}: unknown key" + (f"; did you mean {likely!r}?" if likely else "")


def _call(plugins: Plugins, plugin: LoadedPlugin, hook: str, **arguments: Any) -> None:
    """Call one hook of one plugin only, so that an exception is attributed to it."""
    others = plugins.manager.get_plugins() - {plugin.module}
    plugins.manager.subset_hook_caller(hook, others)(**arguments)


def _attempt(plugins: Plugins, plugin: LoadedPlugin, settings: Settings, step: Callable[[], None]) -> None:
    """Run one step of loading; switch the plugin off if the step raises or takes too long."""
    limit = settings.plugins.load_timeout
    began = time.monotonic()
    error: BaseException | None = None
    try:
        error = in_background(f"plugin-{plugin.name}", step).exception(min(limit, threading.TIMEOUT_MAX))
    except TimeoutError:
        problem = f"it did not finish loading within {format_duration(limit)}"
        _switch_off(plugins, plugin, problem, code="PLG001", hint="raise load_timeout in [plugins], if it is only slow")
        plugin.late = True
    plugin.seconds += time.monotonic() - began
    if isinstance(error, PluginError):
        _switch_off(plugins, plugin, error.message, code=error.code, hint=error.hint)
    elif isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0].replace("_", "-")
        _switch_off(plugins, plugin, f"cannot be imported: {error}", code="PLG001", hint=f"pip install {package}")
    elif error is not None:  # code of a plugin may raise anything, SystemExit too
        _switch_off(plugins, plugin, f"{type(error).__name__}: {error}", code="PLG001")
        plugin.line = _line(error, plugin)


def _line(error: BaseException, plugin: LoadedPlugin) -> int | None:
    """The line of the plugin's own file that raised."""
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
    plugins.registry.remove_plugin(plugin.name)
    if code is not None:
        logger.warning("plugin %r is switched off: %s (%s)", plugin.name, problem, code)


def _require_plugins(plugins: Plugins, settings: Settings) -> None:
    for name, likely in unclaimed_tables(plugins, settings).items():
        guess = f"; did you mean [plugins.{likely}]?" if likely else ""
        raise ConfigError(f"[plugins.{name}] is set, and no plugin is called {name!r}{guess}", code="CFG008")
    problems = {plugin.name: plugin.problem for plugin in reversed(plugins.loaded)}  # the first of a name counts
    for name in settings.plugins.required:
        problem = problems.get(name, "it is not installed")
        if problem is not None:
            raise ConfigError(f"required plugin {name!r} is off: {problem}", code="PLG006")


def in_background(name: str, work: Callable[[], T]) -> Future[T]:
    """Start work in a thread that does not delay the exit of the process, and return its future result."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
