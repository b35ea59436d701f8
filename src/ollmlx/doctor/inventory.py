"""The installed models, listed once for all checks that look at them, with the backend that would run each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ollmlx.errors import OllmlxError
from ollmlx.plugin.contracts import Backend, Store
from ollmlx.plugin.loader import in_background
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
from ollmlx.types import InstalledModel


@dataclass(frozen=True)
class Listing:
    """The models of one store, or the error with which it could not list them."""

    store: Store
    models: Sequence[InstalledModel] = ()
    error: OllmlxError | None = None


@dataclass(frozen=True)
class Choices:
    """Each model with the backend that would run it, or with the refusal. `late`: there was no time for these."""

    of: Sequence[tuple[InstalledModel, Backend | OllmlxError]] = ()
    late: Sequence[InstalledModel] = ()

    def late_note(self) -> str:
        """Return how many models there was no time for, and the first of them."""
        return some_of([model.name.short for model in self.late])


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass
class Inventory:
    """Results that several checks need: the first that asks works one out, and the others wait for it."""

    _known: dict[str, Future[object]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def once(self, what: str, work: Callable[[], object]) -> object:
        """Return the result of `work`, which runs for the first that asks for `what`."""
        with self._lock:
            if what not in self._known:
                self._known[what] = in_background(what, work)
        return await asyncio.wrap_future(self._known[what])


def list_models(registry: Registry) -> list[Listing]:
    """List the models of every store."""
    return asyncio.run(_listings(registry))


async def _listings(registry: Registry) -> list[Listing]:
    return [await _listing(registry, store) for store in registry.stores.values()]


async def _listing(registry: Registry, store: Store) -> Listing:
    try:
        with registry.stores.errors_named(store.name):
            return Listing(store, await store.list())
    except OllmlxError as error:
        return Listing(store, error=error)


def choose_backends(
    registry: Registry, settings: Settings, models: Sequence[InstalledModel], left: Callable[[], float]
) -> Choices:
    """Choose the backend of each model until no time is left."""
    chosen: list[tuple[InstalledModel, Backend | OllmlxError]] = []
    for number, model in enumerate(models):
        if left() <= 0:
            return Choices(chosen, models[number:])
        stated = settings.models.get(model.name.short)
        try:
            chosen.append((model, registry.backend_for(model, stated.backend if stated else None)))
        except OllmlxError as error:
            chosen.append((model, error))
    return Choices(chosen)
