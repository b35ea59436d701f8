"""What plugins implement. Each docstring says who calls it and when.

Calls into a backend, store or source come from the daemon's event loop: a method that is not `async` must return at
once or be cheap file reading (callers run those in a thread); none may import mlx.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from ollmlx.errors.findings import Finding
from ollmlx.model.names import ModelName
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.types import (
    CreateRequest,
    EmbedRequest,
    EmbedResult,
    Event,
    Frozen,
    GenerateRequest,
    InstalledModel,
    MemoryEstimate,
    PullProgress,
)

if TYPE_CHECKING:
    from ollmlx.settings import Settings


PLUGIN_FILE_PREFIX = "ollmlx_plugin_"
"""Modules of `[plugins] paths` have this before their name; no other process can import them by it."""


class RunnerCommand(Frozen):
    """A program that speaks the Runner Protocol: `argv` (absolute executable first) and the variables it needs.

    `env` is laid over the supervisor's allow-list; `engine_options` travel to the engine in `RunnerConfig`.
    `{fd}` in an argument becomes the number of the inherited listening socket.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    engine_options: dict[str, Any] = {}

    @classmethod
    def of_engine(cls, engine: str | type, **engine_options: Any) -> RunnerCommand:
        """The usual command: this Python, `ollmlx.runner`, and an engine, as a class or as `package.module:Class`.

        Name it in text when importing it imports mlx or the like. A class of a plugin file is found by its file.
        """
        if isinstance(engine, type):
            module = sys.modules[engine.__module__]
            by_file = module.__spec__ is None or module.__name__.startswith(PLUGIN_FILE_PREFIX)
            engine = f"{module.__file__ if by_file else module.__name__}:{engine.__qualname__}"
        argv = (sys.executable, "-P", "-m", "ollmlx.runner", "--engine", engine, "--fd", "{fd}")
        return cls(argv=argv, engine_options=engine_options)


class LaunchOptions(Frozen):
    """What a runner is asked to be: context length in tokens, batch width (0: backend's choice), KV-cache precision."""

    context_length: int
    parallel: int = 0
    kv_cache_type: str = "auto"
    cluster: dict[str, Any] | None = None


class Refusal(Frozen):
    """Why a backend does not run a model, and what would help."""

    reason: str
    hint: str | None = None
    code: str | None = None


class Importer(Protocol):
    """Turns a foreign format into a backend's own. Passed to a store while it pulls or creates."""

    def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        """Write the imported model into the empty folder `into`; runs in a child process; raises StorageError."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Runs models of some formats. Registered once, at start."""

    name: str

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """None when it can run the model. Called by the registry for each resolved model; reads small files at most."""
        ...

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Bytes needed for this context length (tokens) and batch width. Called before each load, in a thread."""
        ...

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """The program to spawn. Called by the service right before each load, in a thread."""
        ...

    def importer(self, format: str) -> RunnerCommand | None:
        """The program that imports a foreign format (`gguf`), or None.

        Called by the service during pull and create. The program gets `--source PATH --into DIR` (and `--options JSON`)
        appended, writes `PullProgress` lines to standard output and exits 0, or explains itself on standard error.
        """
        ...


@runtime_checkable
class Spreader(Backend, Protocol):
    """A backend for models that are declared as a cluster, `[models."NAME".cluster]`: it runs one as a group of
    processes, on one or several machines. Other models are never offered to it."""

    spreads: str
    """Name of the backend whose models it spreads: `[models."NAME"] backend` may name either."""

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        """As `Backend.estimate`, for the part of the model that this machine holds. Raises ConfigError when there
        can be no such group. Called before each load, in a thread; `command` then gets `cluster`, too."""
        ...


def can_spread(backend: Backend) -> TypeGuard[Spreader]:
    """Whether a backend is for clusters. Looks at the class only: a plugin's own code may fail."""
    return hasattr(type(backend), "share")


@runtime_checkable
class Source(Protocol):
    """Fetches a model's files for a store."""

    name: str
    store: str
    """Name of the store it feeds."""

    def provides(self, name: ModelName) -> str | None:
        """What it would fetch, for people (`hub:org/name@main`), or None when it does not know the name. No I/O.

        A name with a `host`, or typed `via` a well-known one, is only for the source that asks there. When `fetch` then
        raises NotFound or Unsupported before it fetched anything, the next source that provides the name is asked.
        """
        ...

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download into the folder `into` (which may hold an earlier, partial download), verified.

        Called by a store. Ends normally when complete; raises NotFound, Unauthorized, UpstreamError, StorageError.
        """
        ...

    def format(self, name: ModelName) -> str:
        """The format of what `fetch` leaves behind (`mlx`, `gguf`)."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """A source that also takes uploads. The service picks the first one for `push`."""

    def push(self, model: InstalledModel, target: ModelName) -> AsyncIterator[PullProgress]:
        """Upload an installed model's files under a name. Raises Unauthorized without credentials, UpstreamError."""
        ...


@runtime_checkable
class Store(Protocol):
    """Owns installed models on disk. Registered once; called by the service; file work runs in threads."""

    name: str

    async def list(self) -> Sequence[InstalledModel]:
        """Every complete model. A half-pulled or damaged one is not listed (the doctor tells of it)."""
        ...

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """The installed model of that name, or None. Raises StorageError when it is there and damaged."""
        ...

    def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch, import if needed, verify, and rename into place. Resumable; one at a time for each model."""
        ...

    async def delete(self, name: ModelName) -> None:
        """Remove the model of a name, damaged or not, and what nothing else needs. Raises NotFound, StorageError."""
        ...

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Give it a second name without copying weights where the file system allows."""
        ...

    def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Make a model from files or over an installed one."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """A store that also keeps models in a format that others import, for a backend that runs it as it is."""

    keeps: tuple[str, ...]
    """Formats, for example `gguf`. Asked when a new model is made for a certain backend."""


class Engine(Protocol):
    """Holds the weights and generates; lives in the runner process, driven by `ollmlx.runner`.

    `load` and `close` are called once, on the runner's main thread's event loop. `generate` is called for each request
    as it comes, concurrently; closing the iterator cancels the request, at any phase.
    """

    async def load(self, config: RunnerConfig) -> None:
        """Load the model. Raise OllmlxError kinds: invalid/storage (bad model), out_of_memory."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Events in the order that `ollmlx.model.events` states. Raise OllmlxError for failures."""
        ...

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Vectors, one per input. Raise Unsupported when the model cannot."""
        ...

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Token ids of a text or of a templated conversation."""
        ...

    async def detokenize(self, tokens: Tokens) -> str:
        """The text of token ids."""
        ...

    def status(self) -> Progress:
        """What it is doing. Must return at once, even while the compute thread is busy."""
        ...

    async def trim(self) -> None:
        """Give back memory that is only a cache. Called at the soft memory limit and on idling."""
        ...

    async def close(self) -> None:
        """Save what is worth keeping and let go of the device."""
        ...


class Check(Protocol):
    """One examination of the doctor. `codes` are the findings it can report; `group` is where it is shown."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def codes(self) -> tuple[str, ...]: ...

    async def run(self, world: Any) -> Sequence[Finding]:
        """Look, and say what is wrong; nothing found is an empty sequence. Read-only. May raise: that is DOC001."""
        ...


Guarded = Callable[[int], AbstractContextManager[None]]
"""Guards a process group while it lasts: it is ended when the daemon dies, whatever kills the daemon."""


def unguarded(pid: int) -> AbstractContextManager[None]:
    """Where there is no daemon: the doctor, a test."""
    return nullcontext()


class PluginContext(Frozen):
    """What a hook is given: the settings, and the plugin's own table as its registered model (None without one).

    A plugin that starts a process of its own starts it in a new session and waits for it inside `guarded(pid)`.
    """

    settings: Any
    own: Any = None
    guarded: Guarded = unguarded

    def typed(self) -> Settings:
        """The settings, for type checkers."""
        settings: Settings = self.settings
        return settings
