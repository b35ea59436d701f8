"""What the plugins registered, by name. Refuses duplicates; picks the backend for a model; blames the right plugin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ollmlx.errors import OllmlxError, PluginError, Unsupported
from ollmlx.plugin.contracts import Keeper, Refusal, can_spread

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from quart import Blueprint

    from ollmlx.plugin.contracts import Backend, Check, Source, Store
    from ollmlx.types import InstalledModel

logger = logging.getLogger(__name__)

T = TypeVar("T")
RouteFactory = Callable[[Any], "Blueprint"]
"""Makes the Blueprint of a route family from the `Service`."""
NO_BACKEND = "MDL005"


class Shelf(Generic[T]):
    """Things of one kind by name, in the order of registration, each with the plugin that brought it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._owners: dict[str, str] = {}

    def add(self, name: str, item: T, owner: str) -> None:
        """Raises PluginError when the name is taken."""
        if name in self._items:
            raise PluginError(
                f"plugin {owner!r}: {self.kind} {name!r} is already registered by plugin {self._owners[name]!r}",
                code="PLG003",
            )
        self._items[name] = item
        self._owners[name] = owner

    def remove_owner(self, owner: str) -> None:
        """Take out everything a plugin registered (it failed half-way)."""
        for name in [name for name, by in self._owners.items() if by == owner]:
            del self._items[name], self._owners[name]

    @contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """Around a call of the thing: whatever a plugin did not mean to raise becomes a PluginError that names it."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OllmlxError) and not isinstance(error, PluginError):
                raise
            owner, kind = self._owners.get(name, name), type(error).__name__
            told = f"plugin {owner!r}: its {self.kind} {name!r} failed with {kind}"
            logger.exception("%s", told)
            raise PluginError(told, code="PLG008", hint="ollmlx logs") from error

    def get(self, name: str) -> T | None:
        return self._items.get(name)

    def owner(self, name: str) -> str:
        return self._owners[name]

    def values(self) -> tuple[T, ...]:
        return tuple(self._items.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self._items)


@dataclass(frozen=True)
class RegisteredCheck:
    """A doctor check and where its runbooks are (None: with ollmlx's own)."""

    check: Check
    runbooks: Traversable | None


@dataclass(frozen=True)
class Registry:
    """Everything registered in one daemon."""

    backends: Shelf[Backend] = field(default_factory=lambda: Shelf("backend"))
    stores: Shelf[Store] = field(default_factory=lambda: Shelf("store"))
    sources: Shelf[Source] = field(default_factory=lambda: Shelf("source"))
    routes: Shelf[RouteFactory] = field(default_factory=lambda: Shelf("route family"))
    checks: Shelf[RegisteredCheck] = field(default_factory=lambda: Shelf("check"))

    def forget(self, owner: str) -> None:
        """Take out everything a plugin registered."""
        for shelf in (self.backends, self.stores, self.sources, self.routes, self.checks):
            shelf.remove_owner(owner)

    def backend_for(self, model: InstalledModel, preferred: str | None = None) -> Backend:
        """The first backend that accepts the model; only `preferred` when one is asked for.

        Backends for clusters (`Spreader`) are only asked by name.

        Raises Unsupported with every refusal and what would help.
        """
        alone = (backend for backend in self.backends.values() if not can_spread(backend))
        candidates = alone if preferred is None else (self.backend(preferred),)
        refusals = []
        for backend in candidates:
            refusal = self._refusal(backend, model)
            if refusal is None:
                return backend
            refusals.append((backend.name, refusal))
        told = "; ".join(f"{name}: {refusal.reason}" for name, refusal in refusals) or "no backend is installed"
        # one that would take the format knows better than those that do not
        ranked = sorted((refusal for _, refusal in refusals), key=lambda one: one.code in (None, NO_BACKEND))
        code = next((refusal.code for refusal in ranked if refusal.code), NO_BACKEND)
        hint = next((refusal.hint for refusal in ranked if refusal.hint), None)
        raise Unsupported(f"no backend can run {model.name.short} ({told})", code=code, hint=hint)

    def _refusal(self, backend: Backend, model: InstalledModel) -> Refusal | None:
        try:
            with self.backends.blamed(backend.name):
                return backend.accepts(model)
        except PluginError as error:  # another one may run the model
            return Refusal(reason=error.message, hint=error.hint, code=error.code)

    def ordered_sources(self, order: tuple[str, ...]) -> tuple[Source, ...]:
        """The sources, those named in `order` first."""
        rank = {name: index for index, name in enumerate(order)}
        return tuple(sorted(self.sources.values(), key=lambda source: rank.get(source.name, len(rank))))

    def backend(self, name: str) -> Backend:
        """The backend of that name. Raises Unsupported."""
        chosen = self.backends.get(name)
        if chosen is None:
            raise Unsupported(
                f"no backend {name!r} is installed; there is {', '.join(self.backends.names()) or 'none'}",
                code="PLG006",
                hint="ollmlx plugin list",
            )
        return chosen

    def home_for(self, format: str, backend: str, stores: tuple[Store, ...]) -> Store | None:
        """The store for a new model that a certain backend is to run: one that keeps the format as it is, or, when that
        backend imports it, the first one that does not. None: any. Raises Unsupported."""
        keepers = [store for store in stores if isinstance(store, Keeper) and format in store.keeps]
        if self.backend(backend).importer(format) is None:
            if not keepers:
                raise Unsupported(f"no store keeps the format {format!r} for the backend {backend!r}", code="MDL005")
            return keepers[0]
        return next((store for store in stores if store not in keepers), None) if keepers else None

    def ordered_stores(self, order: tuple[str, ...]) -> tuple[Store, ...]:
        """The stores, those named in `order` first."""
        rank = {name: index for index, name in enumerate(order)}
        return tuple(sorted(self.stores.values(), key=lambda store: rank.get(store.name, len(rank))))
