"""The composition root: builds a daemon's parts from its settings. The only module that knows all concrete classes."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ollmlx.errors import OllmlxError
from ollmlx.helper import close_helpers
from ollmlx.keys import SAVE_INTERVAL, Quotas, Usage
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.model.names import load_catalogue
from ollmlx.plugin.loader import Plugins, is_hidden, load_plugins
from ollmlx.service import Service
from ollmlx.settings import Settings
from ollmlx.settings.load import LoadedSettings
from ollmlx.settings.report import effective
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.awake import Awake, awake_command
from ollmlx.supervisor.chores import keep_running
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.types import Caller

logger = logging.getLogger(__name__)
PRUNE_INTERVAL = 600.0  # seconds between two removals of uploads that no model needs


@dataclass
class App:
    """One daemon, without its listening socket."""

    settings: Settings
    plugins: Plugins
    pool: Pool
    service: Service
    quotas: Quotas
    loaded: LoadedSettings
    """The settings with the origin of each value, as they were read last."""
    options: tuple[str, ...] = ()
    """The options of the command line about settings: `--config FILE`, `--host ADDRESS`."""
    waiting: tuple[str, ...] = ()
    """Changes of the settings that need a restart."""
    awake: Awake = field(default_factory=lambda: Awake(awake_command(sys.platform)))
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """End orphans of an earlier daemon, start the guardian, begin to preload models.

        Raises Conflict when another daemon has the state folder, StorageError when it cannot be used.
        """
        for notice in self.loaded.warnings:
            logger.warning("settings: %s", notice)
        await self.pool.start()
        await asyncio.to_thread(self.quotas.usage.load)
        chores = (("preload", self._preload), ("prune uploads", self._prune_uploads), ("save usage", self._save_usage))
        for name, work in chores:
            self.keep(name, work)

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a task until the daemon is closed; if it fails, log the failure and run it again."""
        self._tasks.append(asyncio.create_task(keep_running(name, work, asyncio.sleep), name=name))

    async def close(self) -> None:
        """Drain and stop every runner, within `drain_timeout` and the time that stopping takes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.pool.close(self.settings.server.drain_timeout)
        finally:
            close_helpers()
            await asyncio.to_thread(self.quotas.usage.save)
            await self.awake.close()

    def reconfigure(self, settings: Settings) -> None:
        """Use settings that differ from the present ones only in what can change without a restart."""
        self.settings = settings
        self.quotas.reconfigure(settings.security)
        self.service.reconfigure(settings, ModelOverrides(settings, load_catalogue()))

    def settings_told(self) -> list[dict[str, Any]]:
        """Return every key with its effective value and its origin, as `ollmlx config show --json` does."""
        told = effective(self.loaded, lambda path: is_hidden(self.plugins, path))
        return [value.as_json() for value in told]

    async def _preload(self) -> None:
        for name, overrides in self.service.overrides.models.items():
            if not overrides.preload:
                continue
            try:
                caller = Caller(request_id=f"preload-{name.short}")
                await self.service.load(name, caller=caller, patient=True)
            except OllmlxError as error:
                logger.warning("preload of %s failed: %s", name.short, error.message)

    async def _save_usage(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            await asyncio.to_thread(self.quotas.usage.save)

    async def _prune_uploads(self) -> None:
        while True:
            if removed := await asyncio.to_thread(self.service.blobs.prune, time.time()):
                logger.info("removed %d uploaded files that no model needs any more", removed)
            if removed := await asyncio.to_thread(self.service.prune_caches):
                logger.info("removed %d saved prompt caches beyond [storage] cache_limit", removed)
            await asyncio.sleep(PRUNE_INTERVAL)


def build(loaded: LoadedSettings, *, options: tuple[str, ...] = ()) -> App:
    """Build a daemon. Must run where its event loop runs. Raises ConfigError for unusable settings.

    options: what its command line said about the settings.
    """
    settings = loaded.settings
    pool = Pool(settings)
    plugins = load_plugins(settings, guarded=pool.guarded)
    overrides = ModelOverrides(settings, load_catalogue())
    make_importer = functools.partial(ChildImporter, guarded=pool.guarded)
    planner = LaunchPlanner(settings, plugins.registry, overrides, make_importer, pool.budget, pool.has_runner)
    blobs = Blobs(settings.state_folder / "blobs", settings.security.upload_limit)
    service = Service(settings, plugins.registry, pool, overrides, planner, blobs)
    quotas = Quotas(settings.security, Usage(settings.state_folder))
    return App(settings, plugins, pool, service, quotas, loaded, options)
