"""The model library: all stores and sources as one. Finds models by name, pulls them, and creates new ones."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from ollmlx.errors import (
    InvalidRequest,
    NotFound,
    OllmlxError,
    PluginError,
    StorageError,
    Unsupported,
    UpstreamError,
)
from ollmlx.formats.ollama_gguf import DIALECT_KEY
from ollmlx.launch.overrides import ModelOverrides, apply_overrides, rename
from ollmlx.model.events import closing
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Importer, Previewer, Source, Store, can_keep, is_read_only
from ollmlx.plugin.registry import SENSES, Registry
from ollmlx.settings import Settings
from ollmlx.storekit.outline import outlined_model
from ollmlx.storekit.staging import discard
from ollmlx.storekit.threads import to_transfer_thread
from ollmlx.types import CreateRequest, InstalledModel, PullCandidate, PullProgress

logger = logging.getLogger(__name__)
LEFT_TO_THE_NEXT = ("MDL006", "MDL007")
"""Codes of files that one store cannot use, while another may: a format, an adapter."""
UNREACHABLE = "NET005"
"""The code of a source that does not answer, or only with a failure of its own."""
FOREIGN = "MDL005"
"""The code of a model that no backend can run."""
ALIKE = 0.8
"""The likeness, by difflib, from which a name may be the one that was meant."""


class ModelLibrary:
    """The models that can be asked for.

    `importer` returns the importer of a foreign format, if a backend has one; `converter` the program that quantises a
    format which is kept as it is. `backend_that_keeps` returns the name of the backend for which this machine keeps a
    foreign format. `unload` stops the runners of a model.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        overrides: ModelOverrides,
        importer: Callable[[str], Importer | None],
        converter: Callable[[str], Importer | None],
        backend_that_keeps: Callable[[str], str | None],
        unload: Callable[[InstalledModel], Awaitable[None]],
    ) -> None:
        self._source_order = settings.storage.sources
        self._registry = registry
        self._overrides = overrides
        self._importer = importer
        self._converter = converter
        self._backend_that_keeps = backend_that_keeps
        self._unload = unload
        self._stores = registry.stores.ordered(settings.storage.stores)

    def reconfigure(self, overrides: ModelOverrides) -> None:
        """Use changed overrides and aliases from now on."""
        self._overrides = overrides

    # -- finding -----------------------------------------------------------------------------------------------------

    async def list(self) -> list[InstalledModel]:
        """Return installed models, models of the settings, and aliases of installed models; newest first.

        A name that two stores have means the model of the store that comes first. A store that cannot be read hides
        nothing of the others. Raises its StorageError if they have no model.
        """
        found: dict[ModelName, InstalledModel] = {}
        unreadable: StorageError | None = None
        for store in self._stores:
            try:
                with self._registry.stores.errors_named(store.name):
                    models = await store.list()
            except PluginError:  # it is in the log; the models of the other stores are listed
                continue
            except StorageError as error:
                unreadable = unreadable or error
                logger.warning("the models of store %s cannot be listed: %s", store.name, error.message)
                continue
            for model in models:
                found.setdefault(model.name, model)
            for model in models:
                for alias in self._overrides.aliases_of(model.name):
                    found.setdefault(alias, rename(model, alias))
        if unreadable is not None and not found:
            raise unreadable
        for name, overrides in self._overrides.models.items():
            base_name = ModelName.parse(overrides.from_) if overrides.from_ else name
            if (base := found.get(base_name)) is not None:
                target = found.get(self._overrides.alias(base_name) or base_name)
                same_files = target is not None and target.path == base.path
                found[name] = apply_overrides(target if target and same_files else base, name, overrides)
        return sorted(map(self._perceiving, found.values()), key=lambda model: model.modified_at, reverse=True)

    def _perceiving(self, model: InstalledModel) -> InstalledModel:
        """Return the model without `vision` and `audio` where the backend that runs it does not answer them."""
        if SENSES.isdisjoint(model.capabilities):
            return model
        overrides = self._overrides.models.get(model.name)
        preferred = (overrides.backend if overrides else None) or model.defaults.options.backend
        lacking = SENSES - self._registry.senses(model, preferred)
        left = tuple(name for name in model.capabilities if name not in lacking)
        return model.model_copy(update={"capabilities": left})

    async def resolve(self, name: ModelName) -> InstalledModel:
        """Return the model that a name stands for, with aliases and overrides applied. Raises NotFound."""
        return self._perceiving(await self._resolve(name))

    async def _resolve(self, name: ModelName) -> InstalledModel:
        overrides = self._overrides.models.get(name)
        if overrides is None:
            found = await self._first(name, self._overrides.alias(name))
            return found if found.name == name else rename(found, name)
        base_name = ModelName.parse(overrides.from_) if overrides.from_ else name
        base = await self._first(base_name, self._overrides.alias(base_name))
        model = apply_overrides(base, name, overrides)
        if overrides.draft is None:
            return model
        draft_name = ModelName.parse(overrides.draft)
        draft = await self._first(draft_name, self._overrides.alias(draft_name))
        return model.model_copy(update={"defaults": model.defaults.model_copy(update={"draft": draft.path})})

    async def find(self, name: ModelName) -> InstalledModel | None:
        """Return the installed model of exactly this name, without aliases and overrides."""
        try:
            return await self._first(name)
        except NotFound:
            return None

    async def is_installed(self, name: ModelName) -> bool:
        """Return whether a store has a model of exactly this name, also one that is damaged."""
        try:
            return await self.find(name) is not None
        except (StorageError, InvalidRequest):
            return True

    async def locate(self, name: ModelName) -> tuple[Store, InstalledModel | ModelName]:
        """Return the store that has a model, and the model. Of a damaged model, return the name that the store knows.

        Raises NotFound.
        """
        for store, wanted in product(self._stores, filter(None, (name, self._overrides.alias(name)))):
            try:
                with self._registry.stores.errors_named(store.name):
                    model = await store.resolve(wanted)
            except (StorageError, InvalidRequest):
                return store, wanted
            except PluginError:  # it is in the log; another store may have the model
                continue
            if model is not None:
                return self.store_of(model), model
        raise await self._not_found(name)

    def store_of(self, model: InstalledModel) -> Store:
        """Return the store of a model. Raises NotFound when a store listed it under another store's name."""
        store = self._registry.stores.get(model.store)
        if store is None:
            raise NotFound(f"store {model.store!r} is not installed", code="PLG006")
        return store

    async def _first(self, name: ModelName, alias_of: ModelName | None = None) -> InstalledModel:
        """Return the first store's model of this name, or of the name that it is an alias of.

        Raises NotFound when no store has it, PluginError when a store failed and no other has it.
        """
        failure: PluginError | None = None
        for store, wanted in product(self._stores, filter(None, (name, alias_of))):
            try:
                with self._registry.stores.errors_named(store.name):
                    model = await store.resolve(wanted)
            except PluginError as error:  # another store may have it
                failure = error
                continue
            if model is not None:
                return model
        raise failure or await self._not_found(name)

    async def _not_found(self, name: ModelName) -> NotFound:
        pull = f"ollmlx pull {name.short}"
        meant = await self._meant(name)
        return NotFound(
            f"model '{name.short}' not found",
            code="MDL002",
            hint=f"did you mean {meant}? else: {pull}" if meant else pull,
        )

    async def _meant(self, name: ModelName, others: Iterable[ModelName] = ()) -> str | None:
        """Return the installed model whose name is spelt almost the same, or one of the other names."""
        known = list(others)
        with suppress(StorageError):
            known = [*(model.name for model in await self.list()), *known]
        if name in known:
            return None
        return next(iter(get_close_matches(name.short, [each.short for each in known], 1, ALIKE)), None)

    # -- pulling -----------------------------------------------------------------------------------------------------

    def pull(
        self, name: ModelName, *, insecure: bool = False, backend: str | None = None
    ) -> AsyncIterator[PullProgress]:
        """Pull a model from the first source that answers and has it. Raises NotFound when no source provides the name.

        `backend`: keep or import its files for this one, not for the one that the settings or this machine prefer.
        """
        backend = backend or self._stated_backend(name)
        return self._pull(name, self._required_offers(name, backend), backend, insecure=insecure)

    async def preview(
        self, name: ModelName, into: Path, *, insecure: bool = False
    ) -> AsyncIterator[tuple[str, PullCandidate | OllmlxError]]:
        """Yield what each source would fetch for a name, in the order of a pull, or why it has nothing.

        `into`: an empty folder for outlines. Raises NotFound when no source provides the name.
        """
        for number, (source, wanted) in enumerate(self._required_offers(name, self._stated_backend(name))):
            label = source.name
            if not isinstance(source, Previewer):
                yield label, Unsupported("the source does not tell what it would fetch")
                continue
            try:
                with self._registry.sources.errors_named(label):
                    async with closing(source.preview(wanted, into / str(number), insecure=insecure)) as candidates:
                        async for candidate in candidates:
                            yield label, candidate
            except OllmlxError as error:
                yield label, error

    def _required_offers(self, name: ModelName, backend: str | None) -> Sequence[tuple[Source, ModelName]]:
        """Return the offers in the order in which a pull tries them.

        Where GGUF files are kept, because they run faster, they come before what the catalogue has for MLX.
        """
        offers = list(self._offers(name))
        keeps = self._backend_that_keeps("gguf")
        if keeps is not None and backend in (None, keeps) and self._overrides.is_conversion(name):
            offers.sort(key=lambda offer: offer[0].format(offer[1]) != "gguf")
        if not offers:
            raise NotFound(
                f"no source provides {name.short!r}",
                code="MDL002",
                hint="use ORG/NAME for a model of the hub, for example mlx-community/Llama-3.2-1B-Instruct-4bit",
            )
        return offers

    def _offers(self, name: ModelName) -> Iterator[tuple[Source, ModelName]]:
        """Yield each source that provides the name, with the name it provides: the target of an alias comes first."""
        names = [wanted for wanted in (self._overrides.alias(name), name) if wanted is not None]
        for source in self._registry.sources.ordered(self._source_order):
            for wanted in names:
                provided = None
                with suppress(PluginError), self._registry.sources.errors_named(source.name):
                    provided = source.provides(wanted)
                if provided is not None:
                    yield source, wanted
                    break

    async def _pull(
        self, name: ModelName, offers: Sequence[tuple[Source, ModelName]], backend: str | None, *, insecure: bool
    ) -> AsyncIterator[PullProgress]:
        refusals: list[OllmlxError] = []
        for number, (source, wanted) in enumerate(offers, 1):
            downloading = False
            try:
                if number < len(offers):
                    await self._check_dialect(source, wanted, insecure=insecure)
                store = self._home(source.format(wanted), backend) or self._registry.stores.get(source.store)
                if store is None:
                    raise NotFound(f"store {source.store!r} of source {source.name!r} is not installed", code="PLG006")
                steps = store.pull(wanted, source, self._importer(source.format(wanted)), insecure=insecure)
                async with closing(self._replacing(steps, wanted, store)) as replacing:
                    async for step in replacing:
                        downloading = downloading or step.total is not None
                        yield step
            except (NotFound, Unsupported, UpstreamError) as error:
                silent, foreign = error.code == UNREACHABLE, error.code == FOREIGN
                if downloading or (isinstance(error, UpstreamError) and not silent):
                    raise
                refusals.append(error)  # the next source may have the model
                if (silent or foreign) and number < len(offers):
                    yield PullProgress(status=f"{error.message}; asking the next source")
            else:
                return
        raise _combine(refusals, await self._meant(name, self._overrides.aliases()))

    async def _check_dialect(self, source: Source, name: ModelName, *, insecure: bool) -> None:
        """Raise Unsupported for a GGUF file that only Ollama's engine reads, by its header. Tells no other faults."""
        if source.format(name) != "gguf" or not isinstance(source, Previewer):
            return
        try:
            folder = Path(await to_transfer_thread(tempfile.mkdtemp, prefix="ollmlx-preview-"))
        except OSError:  # no room for a header: the pull does without
            return
        dialect = None
        try:
            with suppress(OllmlxError), self._registry.sources.errors_named(source.name):
                async with closing(source.preview(name, folder, insecure=insecure)) as candidates:
                    first = await anext(candidates, None)
                    model = await to_transfer_thread(outlined_model, name, first) if first is not None else None
                    dialect = model.info.get(DIALECT_KEY) if model is not None else None
        finally:
            await discard(folder)
        if dialect:
            raise Unsupported(f"the file of {source.name} is in Ollama's own dialect ({dialect})", code=FOREIGN)

    def _stated_backend(self, name: ModelName) -> str | None:
        overrides = self._overrides.models.get(name)
        return overrides.backend if overrides else None

    def _home(self, format: str, backend: str | None) -> Store | None:
        """Return the store for a model of a format that may be kept as it is; None where any store will do.

        It follows from the backend, or else from what is fastest on this machine. Raises Unsupported.
        """
        stores = tuple(self._writable())
        if not any(can_keep(store) and format in store.keeps for store in stores):
            return None
        backend = backend or self._backend_that_keeps(format)
        return self._registry.store_for(format, backend, stores) if backend is not None else None

    async def _replacing(
        self, steps: AsyncIterator[PullProgress], name: ModelName, store: Store
    ) -> AsyncIterator[PullProgress]:
        """Yield the steps of a store. At the end, remove an earlier import of the same name that would hide the model.

        Only stores that import are changed. Those that keep files may belong to another program.
        """
        async with closing(steps):
            async for step in steps:
                if step.status == "success":
                    for earlier in self._stores[: self._stores.index(store)]:
                        if (
                            not (can_keep(earlier) or is_read_only(earlier))
                            and (hidden := await self._usable(earlier, name)) is not None
                        ):
                            yield PullProgress(status=f"removing the import of {name.short} in store {earlier.name}")
                            await self._unload(hidden)
                            await earlier.delete(name)
                yield step

    async def _usable(self, store: Store, name: ModelName) -> InstalledModel | None:
        """Return a store's model of a name, None also for one that is damaged or another's."""
        with suppress(OllmlxError), self._registry.stores.errors_named(store.name):
            return await store.resolve(name)
        return None

    # -- creating ----------------------------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> AsyncIterator[PullProgress]:
        """Create a model in the first store that takes it. A store that cannot import a file leaves it to the next."""
        if request.convert and (request.base is None or DIALECT_KEY not in request.base.info):
            shown = request.base.name.short if request.base is not None else "an uploaded file"
            raise InvalidRequest(f"{shown} is no GGUF file in Ollama's own dialect: there is nothing to convert")
        async with closing(self._create(request, self._stores_for(request))) as progress:
            async for step in progress:
                yield step

    async def _create(self, request: CreateRequest, stores: Sequence[Store]) -> AsyncIterator[PullProgress]:
        if not stores:
            raise NotFound("no store is installed", code="PLG006")
        refusal: OllmlxError | None = None
        for store in stores:
            explained = refusal is None
            try:
                format = _format_of(request)
                keeps = can_keep(store) and format in store.keeps
                steps = store.create(request, self._converter(format) if keeps else self._importer(format))
                async with closing(self._replacing(steps, request.name, store)) as progress:
                    async for step in progress:
                        if refusal is not None and not explained:
                            yield PullProgress(status=f"made in store {store.name}: {refusal.message}")
                        explained = True
                        yield step
            except OllmlxError as error:
                if not isinstance(error, Unsupported) and error.code not in LEFT_TO_THE_NEXT:
                    raise refusal or error from error
                refusal = refusal or error
            else:
                return
        assert refusal is not None
        raise refusal

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Install a model under a second name: in its own store, or else in one that can be written."""
        store = self.store_of(model)
        if not is_read_only(store):
            await store.copy(model, target)
            return
        stores = sorted(self._writable(), key=lambda each: not (can_keep(each) and model.format in each.keeps))
        async with closing(self._create(CreateRequest(name=target, base=model), stores)) as progress:
            async for _ in progress:
                pass

    def _writable(self) -> Sequence[Store]:
        return [store for store in self._stores if not is_read_only(store)]

    def _stores_for(self, request: CreateRequest) -> Sequence[Store]:
        """Return the stores to try for a new model: that of its base, or else all that can be written, the best first.

        A backend that is named by the request or the settings may need another store, and then only that one.
        """
        backend = request.defaults.options.backend or self._stated_backend(request.name)
        if backend is not None:
            home = self._registry.store_for(_format_of(request), backend, self._stores)
            if home is not None:
                return (home,)
        if request.base is not None and not is_read_only(base_store := self.store_of(request.base)):
            return (base_store,)
        home = self._home(_format_of(request), None)
        return sorted(self._writable(), key=lambda store: store is not home)


def _combine(refusals: Sequence[OllmlxError], meant: str | None) -> OllmlxError:
    """Return one error, of the first one's kind, with the messages of all and the name that may be meant."""
    first = refusals[0]
    messages = "; ".join(dict.fromkeys(error.message for error in refusals))
    hint = next((error.hint for error in refusals if error.hint), None)
    if meant is not None:
        hint = f"did you mean {meant}?" + (f" else: {hint}" if hint else "")
    return type(first)(messages, code=first.code, hint=hint)


def _format_of(request: CreateRequest) -> str:
    if request.base is not None and not request.files:
        return request.base.format
    return "gguf" if any(name.lower().endswith(".gguf") for name in request.files) else "mlx"
