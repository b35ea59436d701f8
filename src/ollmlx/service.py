"""The use cases: what a client can ask of the daemon, in the vocabulary, free of any wire dialect.

Route plugins and the command line's server side call this, and nothing below it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollmlx.calls.freeform import hold_freeform
from ollmlx.calls.schema import OfferedTools
from ollmlx.calls.stream import read_calls
from ollmlx.errors import Conflict, NotFound, OllmlxError, Unsupported
from ollmlx.forecast import forecast
from ollmlx.formats.safetensors import read_tensors
from ollmlx.launch.engine_choice import EngineChoice
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.library import ModelLibrary
from ollmlx.model.events import closing
from ollmlx.model.installed import Capability, require
from ollmlx.model.names import ModelName, load_catalogue
from ollmlx.pictures import read_pictures
from ollmlx.plugin.contracts import Publisher
from ollmlx.plugin.registry import Registry
from ollmlx.prefix import RecentConversations, with_stable_prefix
from ollmlx.protocol import TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.storekit.saved_caches import SavedCaches
from ollmlx.supervisor.scheduling.pool import Pool
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
    Prefill,
    PullForecast,
    PullProgress,
    RerankRequest,
    RerankResult,
    RunnerInfo,
    SpeechRequest,
    TranscribeRequest,
)

SHORT_TEXTS = 2048
"""The context that a model is loaded with for vectors at least, in tokens, where it has it."""
UNSEEN_IMAGE = "[an image, which this model cannot see]"


@dataclass(eq=False)
class Service:
    """The use cases of one daemon."""

    settings: Settings
    registry: Registry
    pool: Pool
    overrides: ModelOverrides
    _planner: LaunchPlanner
    blobs: Blobs

    def __post_init__(self) -> None:
        planner = self._planner
        self._recent = RecentConversations()
        self._library = ModelLibrary(
            self.settings,
            self.registry,
            self.overrides,
            planner.importer,
            planner.converter,
            planner.backend_that_keeps,
            self._unload,
        )

    def reconfigure(self, settings: Settings, overrides: ModelOverrides) -> None:
        """Use changed settings from the next request on. Called by the App."""
        self.settings = settings
        self.overrides = overrides
        self._library.reconfigure(overrides)
        self._planner.reconfigure(settings, overrides)

    # -- models ------------------------------------------------------------------------------------------------------

    async def list(self) -> list[InstalledModel]:
        """Return every model that can be asked for, newest first: installed ones, those of the settings, aliases."""
        return await self._library.list()

    async def show(self, name: ModelName) -> InstalledModel:
        """Return everything known of one model, with aliases and `[models."NAME"]` applied. Raises NotFound."""
        return await self._library.resolve(name)

    async def engine(self, model: InstalledModel) -> EngineChoice:
        """Return the backend that would run a model, and why. Raises Unsupported with what would help."""
        return await asyncio.to_thread(self._planner.engine, model)

    async def context_length(self, model: InstalledModel) -> int | None:
        """Return the tokens of context that a model has when it is loaded here; None if it has none, or cannot run."""
        try:
            return (await self._planner.plan(model, model.defaults.options)).context_length or None
        except OllmlxError:
            return None

    async def tensors(self, model: InstalledModel) -> Sequence[dict[str, Any]]:
        """Return name, type and shape of a model's tensors, from the headers of its files. Raises StorageError."""
        return await asyncio.to_thread(read_tensors, model)

    async def copy(self, source: ModelName, target: ModelName) -> None:
        """Give a model a second name. Raises NotFound, Conflict when another model has the folder of that name."""
        model = await self.show(source)
        existing = await self._library.find(target)
        if existing is not None and not existing.name.same_spelling(target):
            raise Conflict(f"{target} and {existing.name} would share a folder", code="STO007")
        await self._library.copy(model, target)

    async def delete(self, name: ModelName) -> None:
        """Unload a model and remove it. Raises NotFound, Conflict for a model of the settings without own files."""
        if self.overrides.models.get(name) is not None and not await self._library.is_installed(name):
            raise Conflict(
                f"{name.short} is declared in the settings", hint=f'remove [models."{name.short}"] from ollmlx.toml'
            )
        store, found = await self._library.locate(name)
        if isinstance(found, InstalledModel):
            models, stored_name = [found], found.name
        else:  # damaged: its files tell nothing, but it may have been loaded before
            models = [runner.model for runner in self.ps() if runner.model.name in (name, found)]
            stored_name = found
        for model in models:
            await self._unload(model)
        await store.delete(stored_name)
        await asyncio.to_thread(self._forget_prompts, stored_name, models)

    def known_names(self) -> Sequence[str]:
        """Return the names of the catalogue, which can be pulled without an organisation."""
        return tuple(load_catalogue())

    def prune_caches(self) -> int:
        """Remove saved prompt caches beyond the limit of all models together; return how many."""
        return SavedCaches(self.settings.caches_folder).prune(self.settings.cache_limit)

    def _forget_prompts(self, name: ModelName, models: Sequence[InstalledModel]) -> None:
        """Remove the saved prompt caches of a model that was deleted."""
        caches = SavedCaches(self.settings.caches_folder)
        for digest in (*(model.digest for model in models), "-"):
            caches.remove([name], digest)

    async def _unload(self, model: InstalledModel) -> None:
        """Stop the runners of a model, when their running requests are done, and wait for their end."""
        for key in self._planner.keys(model):
            await self.pool.unload(key, wait=True)

    def pull(
        self, name: ModelName, *, insecure: bool = False, backend: str | None = None
    ) -> AsyncIterator[PullProgress]:
        """Download a model, for a named backend or for the fastest here. Raises NotFound when no source has it."""
        return self._library.pull(name, insecure=insecure, backend=backend)

    async def preview(self, name: ModelName, *, insecure: bool = False) -> Sequence[PullForecast]:
        """Return what `pull` would fetch, and whether it fits this machine. Raises NotFound when no source has it."""
        return await forecast(name, self._library, self._planner, insecure=insecure)

    async def push(self, name: ModelName, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Upload a model under its name. Raises NotFound, Unsupported when no installed source takes uploads."""
        model = await self.show(name)
        publishers = [source for source in self.registry.sources.values() if isinstance(source, Publisher)]
        if not publishers:
            raise Unsupported("no installed source takes uploads", code="PLG006")
        named = [source for source in publishers if name.host and source.provides(name)]
        publisher = min(named or publishers, key=lambda source: source.store != model.store)
        options = {"insecure": True} if insecure else {}
        async with closing(publisher.push(model, name, **options)) as progress:
            async for step in progress:
                yield step

    async def create(
        self,
        name: ModelName,
        *,
        base: ModelName | None,
        files: dict[str, Path],
        defaults: ModelDefaults,
        quantize: str | None = None,
        convert: bool = False,
    ) -> AsyncIterator[PullProgress]:
        """Create a model over an installed one, which is pulled if needed, or from verified files (name -> path)."""
        if base is None and not files:
            raise Unsupported("neither 'from' or 'files' was specified")
        model: InstalledModel | None = None
        if base is not None:
            try:
                model = await self.show(base)
            except NotFound:
                async with closing(self.pull(base)) as progress:
                    async for step in progress:
                        if step.status != "success":
                            yield step
                model = await self.show(base)
        request = CreateRequest(
            name=name, base=model, files=files, defaults=defaults, quantize=quantize, convert=convert
        )
        async with closing(self._library.create(request)) as progress:
            async for step in progress:
                yield step

    # -- runners -----------------------------------------------------------------------------------------------------

    def ps(self) -> Sequence[RunnerInfo]:
        """Return the loaded models, as they are at this moment."""
        misses = self._recent.misses
        return [
            info.model_copy(update={"missed": str(misses[info.model.name.key])})
            if info.model.name.key in misses
            else info
            for info in self.pool.runners()
        ]

    async def load(
        self,
        name: ModelName,
        *,
        caller: Caller,
        keep_alive: float | None = None,
        options: Options | None = None,
        patient: bool = False,
    ) -> int:
        """Load a model. Returns the nanoseconds it took (0: it was loaded). `patient`: without `request_timeout`."""
        model = await self.show(name)
        spec = await self._planner.plan(model, (options or Options()).over(model.defaults.options))
        async with self.pool.lease(spec, caller, keep_alive, deadline=math.inf if patient else None) as lease:
            return lease.load_ns

    async def unload(self, name: ModelName) -> bool:
        """Stop a model's runners once their running requests are done. Returns False when it was not loaded."""
        model = await self.show(name)
        return any([await self.pool.unload(key, wait=False) for key in self._planner.keys(model)])

    async def generate(
        self,
        name: ModelName | InstalledModel,
        request: GenerateRequest,
        *,
        caller: Caller,
        keep_alive: float | None = None,
    ) -> AsyncIterator[Event]:
        """Yield `Admitted`, the runner's events and `Done`. `name` may be the model that `show` returned.

        Raises OllmlxError; after the first event this means a stream that failed midway.
        """
        model = name if isinstance(name, InstalledModel) else await self._library.resolve(name)
        require(model, request)
        if request.tools:
            OfferedTools(request.tools).check_strict()
        request = await self._complete(model, request, caller)
        spec = await self._planner.plan(model, request.options)

        def ask(asked: GenerateRequest) -> AsyncIterator[Event]:
            events: AsyncIterator[Event] = self.pool.generate(spec, asked, caller, keep_alive)
            if not asked.tools:
                return events
            return read_calls(events, asked, recognise=self.settings.agents.recognise_calls)

        answer = hold_freeform(request, ask) if request.grammars else ask(request)
        counted = not request.messages
        async with closing(answer) as events:
            async for event in events:
                if not counted and isinstance(event, Prefill):
                    counted = True
                    event = self._compared(model, request, caller, event)
                yield event

    async def _complete(self, model: InstalledModel, request: GenerateRequest, caller: Caller) -> GenerateRequest:
        """Return the request as the runner gets it. Raises InvalidRequest for pictures that cannot be read."""
        if self.settings.agents.stable_prefix:
            request = with_stable_prefix(request)
        owner = caller.client if self.settings.security.owned_caches else ""
        request = with_defaults(model, request, caller)
        fetches = self.settings.security.fetch_images
        messages = await read_pictures(request.messages, fetch_images=fetches)
        return request.model_copy(update={"cache_owner": owner, "messages": messages})

    def _compared(self, model: InstalledModel, request: GenerateRequest, caller: Caller, event: Prefill) -> Prefill:
        """Return the first progress of a prompt, with the reason when its prefix was missed."""
        found = self._recent.compare(caller.client, model.name.key, request, event.cached, event.total)
        return event if found is None else event.model_copy(update={"missed": (str(found), found.words)})

    async def embed(
        self, name: ModelName, request: EmbedRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> EmbedResult:
        """Return one vector for each text. Raises OllmlxError."""
        model = await self.show(name)
        options = request.options.over(model.defaults.options)
        spec = await self._planner.plan(model, for_texts(options, model.defaults.options))
        request = request.model_copy(update={"request_id": caller.request_id, "options": options})
        return await self.pool.embed(spec, request, caller, keep_alive)

    async def rerank(
        self, name: ModelName, request: RerankRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> RerankResult:
        """Return a score for each document. Raises OllmlxError."""
        model = await self.show(name)
        if "rerank" not in model.capabilities:
            raise Unsupported(f"{model.name.short} does not support rerank", hint="docs/reranking.md names models")
        options = request.options.over(model.defaults.options)
        spec = await self._planner.plan(model, for_texts(options, model.defaults.options))
        request = request.model_copy(update={"request_id": caller.request_id, "options": options})
        return await self.pool.rerank(spec, request, caller, keep_alive)

    def transcribe(self, name: ModelName, request: TranscribeRequest, *, caller: Caller) -> AsyncIterator[Event]:
        """Yield `Admitted`, what is heard in an audio file, and `Done`. Raises as `generate` does."""
        return self._audio(name, request, "transcription", caller)

    def speak(self, name: ModelName, request: SpeechRequest, *, caller: Caller) -> AsyncIterator[Event]:
        """Yield `Admitted`, the pieces of an audio file, and `Done`. Raises as `generate` does."""
        return self._audio(name, request, "speech", caller)

    async def _audio(
        self, name: ModelName, request: TranscribeRequest | SpeechRequest, needed: Capability, caller: Caller
    ) -> AsyncIterator[Event]:
        model = await self.show(name)
        if needed not in model.capabilities:
            raise Unsupported(f"{model.name.short} does not support {needed}", hint="docs/speech.md names models")
        spec = await self._planner.plan(model, model.defaults.options)
        request = request.model_copy(update={"request_id": caller.request_id})
        async with closing(self.pool.generate(spec, request, caller)) as events:
            async for event in events:
                yield event

    async def count_tokens(self, name: ModelName, request: GenerateRequest, *, caller: Caller) -> int:
        """Return the number of tokens of a prompt or a conversation, template and tools included."""
        return len((await self._tokenized(name, request, caller)).tokens)

    async def render(self, name: ModelName, request: GenerateRequest, *, caller: Caller) -> str:
        """Return the text of a prompt: what the chat template makes of a conversation. Raises Unsupported."""
        found = await self._tokenized(name, request, caller)
        if request.prompt is None and found.prompt is None:
            raise Unsupported(f"the engine of {name.short} does not tell the text of its prompts")
        return found.prompt or request.prompt or ""

    async def _tokenized(self, name: ModelName, request: GenerateRequest, caller: Caller) -> Tokens:
        model = await self.show(name)
        request = await self._complete(model, request, caller)
        tokenize = TokenizeRequest(
            text=request.prompt,
            messages=request.messages,
            tools=request.tools,
            template=request.template,
            think=request.think,
        )
        return await self.pool.tokenize(await self._planner.plan(model), tokenize, caller)


def with_defaults(model: InstalledModel, request: GenerateRequest, caller: Caller) -> GenerateRequest:
    """Return the request completed by the model's defaults: system prompt, few-shot turns, template, options."""
    defaults = model.defaults
    update: dict[str, object] = {
        "options": request.options.over(defaults.options),
        "request_id": request.request_id or caller.request_id,
    }
    if request.max_thinking_tokens == 0:
        update |= {"think": False, "max_thinking_tokens": None}
    if request.template is None and defaults.template is not None:
        update["template"] = defaults.template
    if request.messages and request.prompt is None:
        messages = request.messages
        if messages[0].role != "system":
            system = [Message(role="system", content=defaults.system)] if defaults.system else []
            messages = (*system, *defaults.messages, *messages)
        else:
            messages = (messages[0], *defaults.messages, *messages[1:])
        if "vision" not in model.capabilities and any(message.images for message in messages):
            messages = tuple(map(_described, messages))
        update["messages"] = messages
    return request.model_copy(update=update)


def for_texts(options: Options, defaults: Options) -> Options:
    """Return the options with which a model is loaded for vectors. A short `num_ctx` cuts texts, it loads nothing."""
    if options.num_ctx is None:
        return options
    return options.model_copy(update={"num_ctx": max(options.num_ctx, defaults.num_ctx or SHORT_TEXTS)})


def _described(message: Message) -> Message:
    """Return a tool's result with a sentence in the place of its images, for a model that cannot see them.

    A tool's result is not the user's to change: an agent whose request is refused for it cannot go on.
    """
    if message.role != "tool" or not message.images:
        return message
    content = "\n".join(filter(None, (message.content, UNSEEN_IMAGE)))
    return message.model_copy(update={"content": content, "images": ()})
