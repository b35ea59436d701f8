"""Everything that plugins registered, by kind and name, and the choice of a backend or a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ollmlx.errors import OllmlxError, PluginError, Unsupported
from ollmlx.plugin.contracts import (
    Backend,
    Check,
    Refusal,
    Source,
    Store,
    can_keep,
    can_spread,
    knows_pictures,
    knows_sounds,
)
from ollmlx.types import InstalledModel

if TYPE_CHECKING:
    from quart import Blueprint  # costs start-up time

logger = logging.getLogger(__name__)

T = TypeVar("T")
RouteFactory = Callable[[Any], "Blueprint"]
"""Makes the Blueprint of a route family from the `Service`."""
NO_BACKEND = "MDL005"
SENSES = frozenset({"vision", "audio"})
"""Capabilities that a backend must have, too: what is listed works."""


class PluginItems(Generic[T]):
    """The registered objects of one kind by name, in the order of registration, each with its plugin."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, tuple[T, str]] = {}

    def add(self, name: str, item: T, owner: str) -> None:
        """Add an object. Raises PluginError if the name is taken."""
        if name in self._items:
            problem = f"{self.kind} {name!r} is already registered by plugin {self.owner(name)!r}"
            raise PluginError(f"plugin {owner!r}: {problem}", code="PLG003")
        self._items[name] = item, owner

    def remove_owner(self, owner: str) -> None:
        """Remove the objects of one plugin."""
        self._items = {name: (item, by) for name, (item, by) in self._items.items() if by != owner}

    @contextmanager
    def errors_named(self, name: str) -> Iterator[None]:
        """Turn an unexpected exception of a call into a PluginError that names the plugin; OllmlxErrors pass."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OllmlxError) and not isinstance(error, PluginError):
                raise
            problem = f"plugin {self.owner(name)!r}: its {self.kind} {name!r} failed with {type(error).__name__}"
            logger.exception("%s", problem)
            raise PluginError(problem, code="PLG008", hint="ollmlx logs") from error

    def get(self, name: str) -> T | None:
        return self._items[name][0] if name in self._items else None

    def owner(self, name: str) -> str:
        """The name of the plugin that registered an object; the object's name if no plugin did."""
        return self._items[name][1] if name in self._items else name

    def names(self) -> tuple[str, ...]:
        return tuple(self._items)

    def values(self) -> tuple[T, ...]:
        return self.ordered(())

    def ordered(self, order: tuple[str, ...]) -> tuple[T, ...]:
        """The objects, those named in `order` first."""
        rank = {name: index for index, name in enumerate(order)}
        return tuple(self._items[name][0] for name in sorted(self._items, key=lambda name: rank.get(name, len(rank))))


@dataclass(frozen=True)
class RegisteredCheck:
    """A doctor check and the folder of its runbooks (None: ollmlx's own folder)."""

    check: Check
    runbooks: Traversable | None


@dataclass(frozen=True)
class Registry:
    """Everything registered in one daemon."""

    backends: PluginItems[Backend] = field(default_factory=lambda: PluginItems("backend"))
    stores: PluginItems[Store] = field(default_factory=lambda: PluginItems("store"))
    sources: PluginItems[Source] = field(default_factory=lambda: PluginItems("source"))
    routes: PluginItems[RouteFactory] = field(default_factory=lambda: PluginItems("route family"))
    checks: PluginItems[RegisteredCheck] = field(default_factory=lambda: PluginItems("check"))

    def remove_plugin(self, name: str) -> None:
        """Remove everything that a plugin registered."""
        for items in (self.backends, self.stores, self.sources, self.routes, self.checks):
            items.remove_owner(name)

    def backend_for(self, model: InstalledModel, preferred: str | None = None) -> Backend:
        """The first backend that accepts the model, or the backend called `preferred` if it does.

        Those that answer the most of what the model perceives, pictures and sounds, come first. Backends for clusters
        (`Spreader`) are only used by name. Raises Unsupported with every refusal and a hint.
        """
        alone = [backend for backend in self.backends.values() if not can_spread(backend)]
        if not SENSES.isdisjoint(model.capabilities):
            alone.sort(key=lambda backend: -len(self._perceived(backend, model)))
        candidates = alone if preferred is None else [self.backend(preferred)]
        refusals = []
        for backend in candidates:
            refusal = self._refusal(backend, model)
            if refusal is None:
                return backend
            refusals.append((backend.name, refusal))
        reasons = "; ".join(f"{name}: {refusal.reason}" for name, refusal in refusals) or "no backend is installed"
        # the refusal of a backend that reads the format says more than those of the others
        ranked = sorted((refusal for _, refusal in refusals), key=lambda one: one.code in (None, NO_BACKEND))
        code = next((refusal.code for refusal in ranked if refusal.code), NO_BACKEND)
        hint = next((refusal.hint for refusal in ranked if refusal.hint), None)
        raise Unsupported(f"no backend can run {model.name.short} ({reasons})", code=code, hint=hint)

    def senses(self, model: InstalledModel, preferred: str | None = None) -> frozenset[str]:
        """Return which of SENSES a model has as the backend that runs it answers."""
        try:
            return self._perceived(self.backend_for(model, preferred), model)
        except Unsupported:
            return frozenset()

    def _perceived(self, backend: Backend, model: InstalledModel) -> frozenset[str]:
        able = set(SENSES.intersection(model.capabilities))
        try:
            with self.backends.errors_named(backend.name):
                if "vision" in able and knows_pictures(backend) and not backend.sees(model):
                    able.remove("vision")
                if "audio" in able and not (knows_sounds(backend) and backend.hears(model)):
                    able.remove("audio")
        except PluginError:
            return frozenset()
        return frozenset(able)

    def _refusal(self, backend: Backend, model: InstalledModel) -> Refusal | None:
        try:
            with self.backends.errors_named(backend.name):
                return backend.accepts(model)
        except PluginError as error:  # another backend may run the model
            return Refusal(reason=error.message, hint=error.hint, code=error.code)

    def backend(self, name: str) -> Backend:
        """The backend of that name. Raises Unsupported."""
        chosen = self.backends.get(name)
        if chosen is None:
            known = ", ".join(self.backends.names()) or "none"
            problem = f"no backend {name!r} is installed; there is {known}"
            raise Unsupported(problem, code="PLG006", hint="ollmlx plugin list")
        return chosen

    def store_for(self, format: str, backend: str, stores: tuple[Store, ...]) -> Store | None:
        """The store for a new model of a format that the named backend will run; None if any store will do.

        A backend that imports the format needs a store that converts; any other needs one that keeps the format.
        Raises Unsupported if there is none.
        """
        keepers = [store for store in stores if can_keep(store) and format in store.keeps]
        if self.backend(backend).importer(format) is None:
            if not keepers:
                raise Unsupported(f"no store keeps the format {format!r} for the backend {backend!r}", code="MDL005")
            return keepers[0]
        return next((store for store in stores if store not in keepers), None) if keepers else None
