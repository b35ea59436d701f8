"""Route families under test: a service whose answers the test sets, and a web application around it.

service = FakeService()
service.say("Hello", " world")
client = web_app(service, blueprint).test_client()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ollmlx.errors import NotFound, Unsupported
from ollmlx.keys import Quotas, Usage
from ollmlx.launch.engine_choice import EngineChoice
from ollmlx.model.events import closing
from ollmlx.model.names import ModelName
from ollmlx.settings import Settings
from ollmlx.settings.load import LoadedSettings
from ollmlx.storekit.blobs import Blobs
from ollmlx.supervisor.awake import Awake
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import (
    Admitted,
    Caller,
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    InstalledModel,
    ModelDetails,
    Options,
    PullForecast,
    PullProgress,
    RerankRequest,
    RerankResult,
    RunnerInfo,
    SpeechRequest,
    StreamRequest,
    Text,
    TranscribeRequest,
)

if TYPE_CHECKING:
    from quart import Blueprint, Quart

    from ollmlx.service import Service

Outcome = Event | Exception | asyncio.Event
"""One step of an answer: an event is yielded, an exception is raised, an `asyncio.Event` is waited for."""


def installed(name: str, **changes: Any) -> InstalledModel:
    """Return an installed model with details."""
    known: dict[str, Any] = {
        "path": Path("/nowhere"),
        "size": 1000,
        "modified_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "details": ModelDetails(format="fake", family="fake", families=("fake",), context_length=4096),
        "capabilities": ("completion",),
    }
    return fake_model(name, **(known | changes))


@dataclass
class FakeService:
    """The service that routes call, without a daemon. `calls` lists every call: method name, model name, arguments."""

    settings: Settings = field(default_factory=Settings)
    models: list[InstalledModel] = field(default_factory=lambda: [installed("tiny")])
    runners: Sequence[RunnerInfo] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    progress: list[PullProgress | Exception] = field(default_factory=list)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    blobs: Blobs = field(default_factory=lambda: Blobs(Path("/nowhere")))
    open_streams: int = 0
    pool: Any = field(
        default_factory=lambda: SimpleNamespace(
            subscribe=lambda listener: None, queue=list, budget=0, guarded=lambda pid: nullcontext()
        )
    )
    callers: list[Caller] = field(default_factory=list)

    def say(self, *texts: str, done: Done | None = None) -> None:
        """Set the answer of every generation to these texts."""
        ended = done or Done(prompt_tokens=3, generated_tokens=len(texts), total_ns=10, prefill_ns=4, decode_ns=5)
        self.outcomes = [Admitted(queue_ns=1_000_000, load_ns=2_000_000), *(Text(text=text) for text in texts), ended]

    async def list(self) -> Sequence[InstalledModel]:
        return self.models

    async def resolve(self, name: ModelName) -> InstalledModel:
        for model in self.models:
            if model.name == name:
                return model
        raise NotFound(f"model '{name.short}' not found", code="MDL002", hint=f"ollmlx pull {name.short}")

    show = resolve

    async def context_length(self, model: InstalledModel) -> int | None:
        return model.details.context_length

    async def tensors(self, model: InstalledModel) -> Sequence[dict[str, Any]]:
        return [{"name": "w", "type": "F32", "shape": [2, 2]}]

    async def engine(self, model: InstalledModel) -> EngineChoice:
        """Return the backend `fake`. Raises Unsupported for GGUF models."""
        if model.format == "gguf":
            raise Unsupported("no backend can run it", hint="install one")
        return EngineChoice("fake", "there is no other")

    async def copy(self, source: ModelName, target: ModelName) -> None:
        await self._record("copy", source, target)

    async def delete(self, name: ModelName) -> None:
        await self._record("delete", name, None)

    def pull(
        self, name: ModelName, *, insecure: bool = False, backend: str | None = None
    ) -> AsyncIterator[PullProgress]:
        self.calls.append(("pull", str(name), insecure))
        return self._steps()

    async def preview(self, name: ModelName, *, insecure: bool = False) -> Sequence[PullForecast]:
        return [PullForecast(source="fake", origin=f"fake:{name.short}", format="mlx", size=5, fits=True)]

    def known_names(self) -> Sequence[str]:
        return ("tiny:1b",)

    def push(self, name: ModelName, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        self.calls.append(("push", str(name), insecure))
        return self._steps()

    def create(self, name: ModelName, **arguments: Any) -> AsyncIterator[PullProgress]:
        """Note the arguments; `convert` only when it is set."""
        stated = {key: value for key, value in arguments.items() if key != "convert" or value}
        self.calls.append(("create", str(name), stated))
        return self._steps()

    def ps(self) -> Sequence[RunnerInfo]:
        return self.runners

    async def load(
        self,
        name: ModelName,
        *,
        caller: Caller,
        keep_alive: float | None = None,
        options: Options | None = None,
        patient: bool = False,
    ) -> int:
        await self._record("load", name, keep_alive)
        return 7

    async def unload(self, name: ModelName) -> bool:
        await self._record("unload", name, None)
        return True

    async def generate(
        self,
        name: ModelName | InstalledModel,
        request: GenerateRequest,
        *,
        caller: Caller,
        keep_alive: float | None = None,
    ) -> AsyncIterator[Event]:
        name = name.name if isinstance(name, InstalledModel) else name
        async with closing(self._outcomes("generate", name, request, caller)) as events:
            async for event in events:
                yield event

    def transcribe(self, name: ModelName, request: TranscribeRequest, *, caller: Caller) -> AsyncIterator[Event]:
        return self._outcomes("transcribe", name, request, caller)

    def speak(self, name: ModelName, request: SpeechRequest, *, caller: Caller) -> AsyncIterator[Event]:
        return self._outcomes("speak", name, request, caller)

    async def _outcomes(
        self, method: str, name: ModelName, request: StreamRequest, caller: Caller
    ) -> AsyncIterator[Event]:
        await self._record(method, name, request)
        self.callers.append(caller)
        self.open_streams += 1
        try:
            for outcome in self.outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                if isinstance(outcome, asyncio.Event):
                    await outcome.wait()
                else:
                    yield outcome
        finally:
            self.open_streams -= 1

    async def embed(
        self, name: ModelName, request: EmbedRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> EmbedResult:
        await self._record("embed", name, request)
        vectors = tuple((1.0, float(len(text))) for text in request.inputs)
        return EmbedResult(embeddings=vectors, prompt_tokens=len(request.inputs), load_ns=1, total_ns=2)

    async def rerank(
        self, name: ModelName, request: RerankRequest, *, caller: Caller, keep_alive: float | None = None
    ) -> RerankResult:
        await self._record("rerank", name, request)
        scores = tuple(1 / (1 + len(text)) for text in request.documents)
        return RerankResult(scores=scores, prompt_tokens=len(scores), truncated=(0,), load_ns=1, total_ns=2)

    async def count_tokens(self, name: ModelName, request: GenerateRequest, *, caller: Caller) -> int:
        await self._record("count_tokens", name, request)
        return 5

    async def _record(self, method: str, name: ModelName, argument: Any) -> None:
        await self.resolve(name)
        self.calls.append((method, str(name), argument))

    async def _steps(self) -> AsyncIterator[PullProgress]:
        for step in self.progress:
            if isinstance(step, Exception):
                raise step
            yield step


def web_app(service: FakeService, *families: Callable[[Service], Blueprint]) -> Quart:
    """Return a web application with these route families over the service, behind the real middleware."""
    from ollmlx.plugin.registry import Registry
    from ollmlx.web.create_app import create_app

    registry = Registry()
    for index, family in enumerate(families):
        registry.routes.add(f"family-{index}", family, "test")
    return create_app(fake_app(service, SimpleNamespace(registry=registry)))


def fake_app(service: FakeService, plugins: Any) -> Any:
    """Return the parts of a daemon that its web application uses, over the service."""
    quotas = Quotas(service.settings.security, Usage(Path("/nowhere")))
    own = {"settings": service.settings, "service": service, "plugins": plugins, "quotas": quotas, "options": ()}
    read = {"loaded": LoadedSettings(service.settings), "waiting": (), "settings_told": list}
    return SimpleNamespace(**own, **read, awake=Awake(()))
