"""The use cases: what a client can ask of the daemon, in the vocabulary, free of any wire dialect.

Route plugins and the command line's server side call this and nothing below it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx.errors import Conflict, NotFound, OllmlxError, PluginError, StorageError, Unsupported
from ollmlx.formats.tensors import read_tensors
from ollmlx.launch.overrides import ModelOverrides, overlay, rename
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.model.events import closing
from ollmlx.model.installed import require
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Publisher
from ollmlx.protocol import TokenizeRequest
from ollmlx.types import (
    Caller,
    CreateRequest,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    InstalledModel,
    Message,
    ModelDefaults,
    Options,
    PullProgress,
    RunnerInfo,
)

if TYPE_CHECKING:
    from ollmlx.plugin.contracts import Importer, Source, Store
    from ollmlx.plugin.registry import Registry
    from ollmlx.settings import Settings
    from ollmlx.storekit.blobs import Blobs
    from ollmlx.supervisor.scheduling.pool import Pool


class Service:
    """One daemon's use cases."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        pool: Pool,
        declarations: ModelOverrides,
        launcher: LaunchPlanner,
        blobs: Blobs,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.pool = pool
        self.declarations = declarations
        self.launcher = launcher
        self.blobs = blobs
        self._stores = registry.ordered_stores(settings.storage.stores)

    def reconfigure(self, settings: Settings, declarations: ModelOverrides) -> None:
        """Use changed settings from the next request on. Called by the App."""
        self.settings = settings
        self.declarations = declarations
        self.launcher.reconfigure(settings, declarations)

    # -- models ------------------------------------------------------------------------------------------------------

    async def list(self) -> list[InstalledModel]:
        """Every model that can be asked for: installed ones, declared ones, aliases of installed ones; newest first.

        A name that two stores have means the model of the store that comes first.
        """
        found: dict[ModelName, InstalledModel] = {}
        for store in self._stores:
            try:
                with self.registry.stores.blamed(store.name):
                    models = await store.list()
            except PluginError:  # what the others have is listed
                continue
            for model in models:
                found.setdefault(model.name, model)
            for model in models:
                for alias in self.declarations.aliases_of(model.name):
                    found.setdefault(alias, rename(model, alias))
        for name, declared in self.declarations.declared():
            base_name = ModelName.parse(declared.from_) if declared.from_ else name
            base_model = found.get(base_name)
            full = found.get(self.declarations.alias(base_name) or base_name)
            if base_model is not None:
                same = full is not None and full.path == base_model.path
                found[name] = overlay(full if same and full else base_model, name, declared)
        return sorted(found.values(), key=lambda model: model.modified_at, reverse=True)

    async def resolve(self, name: ModelName) -> InstalledModel:
        """The model a name stands for, aliases and `[models."NAME"]` applied. Raises NotFound."""
        declared = self.declarations.settings_for(name)
        if declared is not None:
            base_name = ModelName.parse(declared.from_) if declared.from_ else name
            base = await self._installed(base_name)
            return await self._with_draft(overlay(base, name, declared), declared.draft)
        found = await self._installed(name)
        return found if found.name == name else rename(found, name)

    async def show(self, name: ModelName) -> InstalledModel:
        """Everything known of one model."""
        return await self.resolve(name)

    async def backend(self, model: InstalledModel) -> str:
        """The name of the backend that would run a model. Raises Unsupported with what would help."""
        return await asyncio.to_thread(self.launcher.backend, model)

    async def copy(self, source: ModelName, target: ModelName) -> None:
        """Give a model a second name."""
        model = await self.resolve(source)
        if (taken := await self._find(target)) is not None and not taken.name.same_spelling(target):
            raise Conflict(f"{target} and {taken.name} would share a folder", code="STO008")
        await self._store(model).copy(model, target)

    async def delete(self, name: ModelName) -> None:
        """Unload a model and remove it. A declared model has no files of its own: remove its base by its name."""
        if self.declarations.settings_for(name) is not None and await self._find(name) is None:
            raise Conflict(
                f"{name.short} is declared in the settings", hint=f'remove [models."{name.short}"] from ollmlx.toml'
            )
        store, found, models = await self._home(name)
        for key in {key for model in models for key in self.launcher.keys(model)}:
            await self.pool.unload(key, wait=True)
        await store.delete(found)

    def pull(self, name: ModelName, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Bring a model onto this machine. Raises NotFound when no source provides the name."""
        offers = list(self._offers(name))
        if not offers:
            raise NotFound(
                f"no source provides {name.short!r}",
                code="MDL002",
                hint="use ORG/NAME for a model of the hub, for example mlx-community/Llama-3.2-1B-Instruct-4bit",
            )
        return self._pull(offers, insecure=insecure)

    async def push(self, name: ModelName, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Upload a model under its name. Raises NotFound, Unsupported when no installed source takes uploads."""
        model = await self.resolve(name)
        publisher = next((source for source in self.registry.sources.values() if isinstance(source, Publisher)), None)
        if publisher is None:
            raise Unsupported("no installed source takes uploads", code="PLG006")
        async with closing(publisher.push(model, name)) as progress:
            async for step in progress:
                yield step

    async def tensors(self, model: InstalledModel) -> Sequence[dict[str, Any]]:
        """Name, type and shape of a model's tensors, from the headers of its files. Raises StorageError."""
        return await asyncio.to_thread(read_tensors, model)

    async def create(
        self,
        name: ModelName,
        *,
        base: ModelName | None,
        files: dict[str, Path],
        defaults: ModelDefaults,
        quantize: str | None = None,
    ) -> AsyncIterator[PullProgress]:
        """Make a model over an installed one, or from verified files (file name -> path)."""
        if base is None and not files:
            raise Unsupported("neither 'from' or 'files' was specified")
        model: InstalledModel | None = None
        if base is not None:
            try:
                model = await self.resolve(base)
            except NotFound:
                async with closing(self.pull(base)) as progress:
                    async for step in progress:
                        if step.status != "success":
                            yield step
                model = await self.resolve(base)
        request = CreateRequest(name=name, base=model, files=files, defaults=defaults, quantize=quantize)
        async with closing(self._create(request, self._homes(request))) as progress:
            async for step in progress:
                yield step

    # -- runners -----------------------------------------------------------------------------------------------------

    def ps(self) -> Sequence[RunnerInfo]:
        """The loaded models, as they are at this moment."""
        return self.pool.runners()

    async def load(
        self,
        name: ModelName,
        *,
        caller: Caller,
        keep_alive: float | None = None,
        options: Options | None = None,
        patient: bool = False,
    ) -> int:
        """Have a model ready. Returns the nanoseconds it took (0: it was loaded). `patient`: however long that is,
        `request_timeout` is for requests."""
        model = await self.resolve(name)
        launch = await self.launcher.launch(model, options)
        async with self.pool.lease(launch, caller, keep_alive, deadline=math.inf if patient else None) as lease:
            return lease.load_ns

    async def unload(self, name: ModelName) -> bool:
        """Let a model go once its running requests are done. False when it was not loaded."""
        model = await self.resolve(name)
        return any([await self.pool.unload(key, wait=False) for key in self.launcher.keys(model)])

    async def generate(
        self, name: ModelName, request: GenerateRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> AsyncIterator[Event]:
        """Generate: `Admitted`, the runner's events, `Done`. Raises OllmlxError; after the first event this means a
        stream that failed midway."""
        model = await self.resolve(name)
        require(model, request)
        request = with_defaults(model, request, caller)
        launch = await self.launcher.launch(model, request.options)
        async with closing(self.pool.generate(launch, request, caller, keep_alive)) as events:
            async for event in events:
                yield event

    async def embed(
        self, name: ModelName, request: EmbedRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> EmbedResult:
        """Embed texts, one vector each."""
        model = await self.resolve(name)
        launch = await self.launcher.launch(model, request.options)
        return await self.pool.embed(
            launch, request.model_copy(update={"request_id": caller.request_id}), caller, keep_alive
        )

    async def count_tokens(self, name: ModelName, request: GenerateRequest, *, caller: Caller) -> int:
        """How many tokens a prompt or a conversation is, template and tools included."""
        model = await self.resolve(name)
        request = with_defaults(model, request, caller)
        launch = await self.launcher.launch(model)
        asked = TokenizeRequest(
            text=request.prompt, messages=request.messages, tools=request.tools, template=request.template
        )
        return len((await self.pool.tokenize(launch, asked, caller)).tokens)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _offers(self, name: ModelName) -> Iterator[tuple[Source, ModelName]]:
        """Each source that has a name, in order, with the name it has: what an alias stands for before the alias."""
        alias = self._alias(name)
        for source in self.registry.ordered_sources(self.settings.storage.sources):
            for wanted in (name,) if alias is None else (alias, name):
                provided = None
                with suppress(PluginError), self.registry.sources.blamed(source.name):
                    provided = source.provides(wanted)
                if provided is not None:
                    yield source, wanted
                    break

    async def _pull(self, offers: Sequence[tuple[Source, ModelName]], *, insecure: bool) -> AsyncIterator[PullProgress]:
        """Pull from the first source that has the model after all."""
        refusals: list[OllmlxError] = []
        for source, wanted in offers:
            store = self.registry.stores.get(source.store)
            if store is None:
                raise NotFound(f"store {source.store!r} of source {source.name!r} is not installed", code="PLG006")
            begun = False
            steps = store.pull(wanted, source, self._importer(source.format(wanted)), insecure=insecure)
            try:
                async with closing(steps):
                    async for step in steps:
                        begun = begun or step.total is not None
                        yield step
            except (NotFound, Unsupported) as error:
                if begun:
                    raise
                refusals.append(error)
            else:
                return
        raise _together(refusals)

    def _alias(self, name: ModelName) -> ModelName | None:
        """What a name stands for; nothing when the person said from which host it is."""
        return self.declarations.alias(name) if name.via is None else None

    async def _find(self, name: ModelName) -> InstalledModel | None:
        return await self._first((store, name) for store in self._stores)

    async def _installed(self, name: ModelName) -> InstalledModel:
        """The model of a name or of what it stands for, whichever the first store has; the name itself before that."""
        if (model := await self._first(self._places(name))) is None:
            raise _not_found(name)
        return model

    async def _first(self, places: Iterable[tuple[Store, ModelName]]) -> InstalledModel | None:
        """What the first of these stores has. Raises PluginError when none has it and one of them failed."""
        broken: PluginError | None = None
        for store, name in places:
            try:
                with self.registry.stores.blamed(store.name):
                    model = await store.resolve(name)
            except PluginError as error:  # another store may have it
                broken = error
                continue
            if model is not None:
                return model
        if broken is not None:
            raise broken
        return None

    async def _home(self, name: ModelName) -> tuple[Store, ModelName, Sequence[InstalledModel]]:
        """The store that has a model, its name there, and what may be loaded of it. A damaged one is found, too: of
        that, only what was loaded before is known."""
        for store, wanted in self._places(name):
            try:
                model = await self._first([(store, wanted)])
            except (StorageError, Unsupported):
                loaded = [one.model for one in self.pool.runners()]
                return store, wanted, [model for model in loaded if model.name in (name, wanted)]
            except PluginError:  # it is in the log; another store may have it
                continue
            if model is not None:
                return self._store(model), model.name, [model]
        raise _not_found(name)

    def _places(self, name: ModelName) -> Iterator[tuple[Store, ModelName]]:
        alias = self._alias(name)
        for store in self._stores:
            for wanted in (name,) if alias is None else (name, alias):
                yield store, wanted

    async def _with_draft(self, model: InstalledModel, draft: str | None) -> InstalledModel:
        if draft is None:
            return model
        small = await self._installed(ModelName.parse(draft))
        return model.model_copy(update={"defaults": model.defaults.model_copy(update={"draft": small.path})})

    def _store(self, model: InstalledModel) -> Store:
        store = self.registry.stores.get(model.store)
        if store is None:  # a store that lists a model under another store's name
            raise NotFound(f"store {model.store!r} is not installed", code="PLG006")
        return store

    def _homes(self, request: CreateRequest) -> Sequence[Store]:
        """Where a new model may go: beside its base, or to the first store that takes it, unless a backend is asked for
        that needs another."""
        base = request.base
        declared = self.declarations.settings_for(request.name)
        backend = request.defaults.options.backend or (declared.backend if declared else None)
        if backend is not None:
            home = self.registry.home_for(_format_of(request), backend, self._stores)
            if home is not None:
                return (home,)
        return (self._store(base),) if base is not None else self._stores

    async def _create(self, request: CreateRequest, stores: Sequence[Store]) -> AsyncIterator[PullProgress]:
        """Make a model in the first store that takes it: one that cannot import a file leaves it to the next."""
        if not stores:
            raise NotFound("no store is installed", code="PLG006")
        refusal: OllmlxError | None = None
        for store in stores:
            told = refusal is None
            try:
                async with closing(store.create(request, self._importer(_format_of(request)))) as progress:
                    async for step in progress:
                        if refusal is not None and not told:
                            yield PullProgress(status=f"made in store {store.name}: {refusal.message}")
                        told = True
                        yield step
            except OllmlxError as error:
                if not isinstance(error, Unsupported) and error.code != "MDL006":
                    raise refusal or error from error
                refusal = refusal or error
            else:
                return
        assert refusal is not None
        raise refusal

    def _importer(self, format: str) -> Importer | None:
        return self.launcher.importer(format)


def with_defaults(model: InstalledModel, request: GenerateRequest, caller: Caller) -> GenerateRequest:
    """The request with what the model's Modelfile or settings lay under it: system prompt, few-shot turns, options."""
    defaults = model.defaults
    update: dict[str, object] = {
        "options": request.options.over(defaults.options),
        "request_id": request.request_id or caller.request_id,
    }
    if request.template is None and defaults.template is not None:
        update["template"] = defaults.template
    if request.messages and request.prompt is None:
        messages = request.messages
        if messages[0].role != "system":
            system = [Message(role="system", content=defaults.system)] if defaults.system else []
            messages = (*system, *defaults.messages, *messages)
        else:
            messages = (messages[0], *defaults.messages, *messages[1:])
        update["messages"] = messages
    return request.model_copy(update=update)


def _together(refusals: Sequence[OllmlxError]) -> OllmlxError:
    """Why none of several sources has a model, as one error of the first one's kind."""
    first = refusals[0]
    told = "; ".join(dict.fromkeys(error.message for error in refusals))
    return type(first)(told, code=first.code, hint=next((error.hint for error in refusals if error.hint), None))


def _not_found(name: ModelName) -> NotFound:
    return NotFound(f"model '{name.short}' not found", code="MDL002", hint=f"ollmlx pull {name.short}")


def _format_of(request: CreateRequest) -> str:
    if request.base is not None and not request.files:
        return request.base.format
    return "gguf" if any(name.lower().endswith(".gguf") for name in request.files) else "mlx"
