"""Composition root: settings in, a daemon's parts out. The only place that knows all concrete classes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field

from ollmlx.errors import OllmlxError
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.model.catalogue import load_catalogue
from ollmlx.plugin.loader import Plugins, load_plugins
from ollmlx.service import Service
from ollmlx.settings import Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.process.child import child_environment
from ollmlx.supervisor.process.importers import Importers
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.types import Caller

logger = logging.getLogger(__name__)
PRUNED_EVERY = 600.0  # seconds between two looks for uploads that nobody needs


@dataclass
class App:
    """One daemon, not yet listening."""

    settings: Settings
    plugins: Plugins
    pool: Pool
    service: Service
    notices: tuple[str, ...] = ()
    """Warnings about the settings, logged at start."""
    _chores: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Reap what an earlier daemon left, start the guardian, begin to preload."""
        for notice in self.notices:
            logger.warning("settings: %s", notice)
        await self.pool.start()
        for name, chore in (("preload", self._preload()), ("blobs", self._prune())):
            self._chores.append(asyncio.create_task(chore, name=name))

    async def close(self) -> None:
        """Drain and stop every runner. Bounded by the pool's own deadline."""
        for chore in self._chores:
            chore.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await chore
        await self.pool.close(self.settings.server.drain_timeout)

    def reconfigure(self, settings: Settings) -> None:
        """Take over settings that differ from the present ones only in what can change without a restart."""
        self.settings = settings
        self.service.reconfigure(settings, ModelOverrides(settings, load_catalogue()))

    async def _preload(self) -> None:
        for name, declared in self.service.declarations.declared():
            if not declared.preload:
                continue
            try:
                caller = Caller(request_id=f"preload-{name.short}")
                await self.service.load(name, caller=caller, patient=True)
            except OllmlxError as error:
                logger.warning("preload of %s failed: %s", name.short, error.message)

    async def _prune(self) -> None:
        while True:
            if removed := await asyncio.to_thread(self.service.blobs.prune, time.time()):
                logger.info("removed %d uploaded files that nobody needed any more", removed)
            await asyncio.sleep(PRUNED_EVERY)


def build(settings: Settings, *, notices: tuple[str, ...] = ()) -> App:
    """Put a daemon together. Must run where its event loop runs; raises ConfigError for unusable settings."""
    pool = Pool(settings)
    plugins = load_plugins(settings, guarded=pool.guarded)
    declarations = ModelOverrides(settings, load_catalogue())
    launcher = LaunchPlanner(
        settings, plugins.registry, declarations, Importers(child_environment, pool.guarded), pool.budget
    )
    blobs = Blobs(settings.state_folder / "blobs")
    service = Service(settings, plugins.registry, pool, declarations, launcher, blobs)
    return App(settings, plugins, pool, service, notices)
