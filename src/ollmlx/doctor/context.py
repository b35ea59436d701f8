"""The context that checks examine. Every part can be replaced, so that a test can describe any machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from pluggy import PluginManager

from ollmlx.doctor.daemon import DaemonClient, NoReply
from ollmlx.doctor.inventory import Choices, Inventory, Listing, choose_backends, list_models
from ollmlx.doctor.machine import Completed, Machine, Process, Processes, run_child
from ollmlx.doctor.probe.parent import PluginProbe, PluginTask, start_probes
from ollmlx.errors import OllmlxError
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.model.names import ModelName, load_catalogue
from ollmlx.plugin.contracts import Store
from ollmlx.plugin.discovery import LoadedPlugin
from ollmlx.plugin.loader import Plugins, in_background, load_plugins
from ollmlx.settings import Settings
from ollmlx.settings.faults import Fault, Origin
from ollmlx.settings.load import InvalidSettings, LoadedSettings, load_settings
from ollmlx.text.addresses import Address
from ollmlx.types import InstalledModel

SPARE_SECONDS = 0.4
"""Checks stop so long before the examination ends: what they have found by then is told."""
PLUGIN_SECONDS = 2.5
"""Time limit for loading a plugin in the doctor; the daemon's own limit is `[plugins] load_timeout`."""

RunChild = Callable[[Sequence[str], float], Awaitable[Completed]]


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class CheckContext:
    """The machine, the settings and the daemon, as checks see them. Public to the checks of plugins.

    `faults`: why the settings cannot be used; `loaded` and `settings` then hold the values that have no fault.
    `file`: the settings file that was read or should have been. `config`: the file that `--config` named.
    `load`: waits for the plugins. `probes`: of foreign plugins, known once the plugins are loaded.
    `deep`: checks may read whole models. `online`: checks may use the network. `until`: the time of the monotonic clock
    at which the examination ends.
    """

    settings: Settings = field(default_factory=Settings)
    loaded: LoadedSettings = field(default_factory=lambda: LoadedSettings(Settings()))
    faults: tuple[Fault, ...] = ()
    file: Path | None = None
    config: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=lambda: Machine("linux"))
    processes: Processes = field(default_factory=Processes)
    daemon: DaemonClient = field(default_factory=lambda: DaemonClient(Address.parse("")))
    child: RunChild = run_child
    version_of: Callable[[str], str | None] = package_version
    now: Callable[[], float] = time.time
    user: int = field(default_factory=os.getuid)
    deep: bool = False
    online: bool = False
    load: Callable[[], Plugins] = lambda: Plugins(PluginManager("ollmlx"))
    probes: Sequence[PluginProbe] = ()
    until: float = math.inf
    inventory: Inventory = field(default_factory=Inventory)

    @property
    def plugins(self) -> Plugins:
        """The plugins with what they registered, once they are loaded."""
        return self.load()

    @property
    def stores(self) -> Sequence[Store]:
        """The stores of all plugins."""
        return self.plugins.registry.stores.values()

    def left(self) -> float:
        """Return the seconds that a check may still take; what it could not examine by then is a note."""
        return self.until - SPARE_SECONDS - time.monotonic()

    async def listings(self) -> list[Listing]:
        """Return the models of each store, listed once for all checks."""
        work = partial(list_models, self.plugins.registry)
        return cast(list[Listing], await self.inventory.once("listings", work))

    async def models(self) -> list[InstalledModel]:
        """Return the models of every store that can list them. Other checks report those that cannot."""
        return [model for listing in await self.listings() for model in listing.models]

    async def choices(self) -> Choices:
        """Return every model with the backend that would run it."""
        work = partial(choose_backends, self.plugins.registry, self.settings, await self.models(), self.left)
        return cast(Choices, await self.inventory.once("choices", work))

    @property
    def memory_budget(self) -> int:
        """The bytes that all models together may use, as far as it is known here; 0 if it is not."""
        limit, machine = self.settings.memory.limit, self.machine
        ceiling = min(machine.ram, machine.container_limit or machine.ram)
        return limit if isinstance(limit, int) else int(ceiling * self.settings.memory.share)

    def origin(self, *path: str) -> Origin:
        """Return the source of a key's value, or of the first key of a table."""
        return self.loaded.origin(path)

    def is_reliable(self, *path: str) -> bool:
        """Return False if the value of a key may be a default only because the settings have a fault."""
        doubtful = any(len(fault.path) < 2 or fault.path[0] == path[0] for fault in self.faults)
        return not doubtful or self.origin(*path).kind not in ("default", "file")

    @property
    def address(self) -> Address:
        """The address at which the daemon listens according to these settings."""
        return Address.parse(self.settings.server.host)

    async def ask(self, path: str) -> dict[str, Any] | None:
        """GET a JSON object from the daemon; None if there is no answer, or another kind of answer."""
        try:
            answer = await self.daemon.get(path)
        except NoReply:
            return None
        return answer.body if isinstance(answer.body, dict) else None

    def daemon_process(self, status: Mapping[str, Any]) -> Process | None:
        """Return the process of the daemon that answered; None if it is not here: a container has its own numbers."""
        pid = status.get("pid")
        process = self.processes.get(pid) if isinstance(pid, int) else None
        return process if process is not None and (process.is_ollmlx or not process.command) else None

    def target(self, name: str) -> ModelName:
        """Return the model of a name, aliases followed. Raises InvalidRequest for a name that is none."""
        wanted = ModelName.parse(name)
        return ModelOverrides(self.settings, load_catalogue()).alias(wanted) or wanted

    async def installed(self, name: str) -> InstalledModel | None:
        """Return the installed model of a name, aliases followed; None if no store has it undamaged."""
        with suppress(OllmlxError):
            wanted = self.target(name)
            for store in self.stores:
                with suppress(OllmlxError):  # a damaged model: the check of its store reports it
                    if (model := await store.resolve(wanted)) is not None:
                        return model
        return None


def build_context(
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deep: bool = False,
    online: bool = False,
    plugins: Callable[[], Plugins] | None = None,
) -> CheckContext:
    """Return the context of this machine, with the settings that a daemon would read here. Never raises.

    Foreign plugins are looked at from child processes before they are loaded here, unless `plugins` returns them all.
    """
    environ = os.environ if environ is None else environ
    faults: tuple[Fault, ...] = ()
    try:
        loaded = load_settings(config, overrides, environ, cwd)
    except InvalidSettings as error:
        loaded, faults = error.sound, error.faults
    settings = loaded.settings
    key = environ.get("OLLAMA_API_KEY") or settings.security.own_key
    limit = settings.plugins.load_timeout if deep else min(settings.plugins.load_timeout, PLUGIN_SECONDS)
    probes: list[PluginProbe] = []
    if plugins is None:
        limited = settings.model_copy(update={"plugins": settings.plugins.model_copy(update={"load_timeout": limit})})
        task = PluginTask(
            "", "", str(config) if config else None, dict(overrides or {}), deep, online, limit, environ, cwd
        )
        plugins = in_background("plugins", partial(_load_probed, limited, task, probes)).result
    return CheckContext(
        settings=settings,
        loaded=loaded,
        faults=faults,
        file=next(iter(loaded.files), None),
        config=config,
        environ=environ,
        machine=Machine.here(),
        daemon=DaemonClient(Address.parse(settings.server.host), key),
        deep=deep,
        online=online,
        load=plugins,
        probes=probes,
    )


def _load_probed(settings: Settings, task: PluginTask, probes: list[PluginProbe]) -> Plugins:
    """Start the probes of foreign plugins, and load every plugin that its probe finds harmless."""
    probes += start_probes(settings, task)
    return load_plugins(settings, strict=False, judge=partial(_judge, probes))


def _judge(probes: Sequence[PluginProbe], plugin: LoadedPlugin) -> None:
    for probe in probes:
        if (probe.task.name, probe.task.origin) == (plugin.name, plugin.origin):
            probe.judge(plugin)
