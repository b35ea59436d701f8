"""The contracts that plugins implement. The docstring of a method says when it is called, and by which part.

Backends, stores and sources run in the daemon, so none of their methods may import mlx. An `async` method runs on the
event loop. Any other method must return at once, or only read small files; it is called in a thread where its docstring
says so.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

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
    PullCandidate,
    PullProgress,
    RerankRequest,
    RerankResult,
    SpeechRequest,
    TranscribeRequest,
)

if TYPE_CHECKING:
    from ollmlx.settings import Settings


PLUGIN_FILE_PREFIX = "ollmlx_plugin_"
"""Prefix of the names of modules from `[plugins] paths`. No other process can import them by name."""


def import_file(file: Path) -> ModuleType:
    """Import a module from its file; an `__init__.py` is the package of its folder."""
    package = file.parent if file.name == "__init__.py" else None
    name = f"{PLUGIN_FILE_PREFIX}{(package or file).stem}"
    locations = [str(package)] if package else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class RunnerCommand(Frozen):
    """A program that speaks the Runner Protocol.

    `argv`: the arguments, with the absolute path of the executable first; `{fd}` becomes the number of the inherited
    listening socket. `env`: variables besides those that the supervisor passes on. `engine_options`: values for the
    engine, which finds them in `RunnerConfig`. `sandbox`: what `ollmlx.runner` gives up before it imports the engine:
    `on` all sockets, and files but the model's; with `connect` it may connect to unix sockets; `off` nothing.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    engine_options: dict[str, Any] = {}
    sandbox: Literal["on", "connect", "off"] = "on"

    @classmethod
    def of_engine(cls, engine: str | type, **engine_options: Any) -> RunnerCommand:
        """The usual command: this Python runs `ollmlx.runner` with an engine.

        engine: a class, or the text `package.module:Class` if importing the module would import mlx or similar.
        engine_options: values for the engine. A class of a plugin file is found by its file.
        """
        if isinstance(engine, type):
            module = sys.modules[engine.__module__]
            by_file = module.__spec__ is None or module.__name__.startswith(PLUGIN_FILE_PREFIX)
            engine = f"{module.__file__ if by_file else module.__name__}:{engine.__qualname__}"
        argv = (sys.executable, "-P", "-m", "ollmlx.runner", "--engine", engine, "--fd", "{fd}")
        return cls(argv=argv, engine_options=engine_options)


class LaunchOptions(Frozen):
    """The options of one load: context length in tokens, batch width (0: automatic), precision of the KV cache."""

    context_length: int
    parallel: int = 0
    kv_cache_type: str = "auto"
    cluster: dict[str, Any] | None = None


class Refusal(Frozen):
    """The reason why a backend does not run a model, and a hint that would help."""

    reason: str
    hint: str | None = None
    code: str | None = None


class Importer(Protocol):
    """Converts a foreign format into a backend's own. The service passes it to a store for a pull or a create."""

    def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        """Write the imported model into the empty folder `into`. Runs in a child process. Raises StorageError."""


@runtime_checkable
class Backend(Protocol):
    """Runs models of some formats. Registered once, when the daemon starts."""

    name: str

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """Return None if this backend can run the model. Called before each load; may read small files."""

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Estimate the bytes for a context length (tokens) and a batch width. Called before each load, in a thread."""

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """Return the program to start. Called right before each load, in a thread."""

    def importer(self, format: str) -> RunnerCommand | None:
        """Return the program that imports a foreign format (`gguf`), or None.

        Called during a pull and a create. `--source PATH --into DIR`, and perhaps `--options JSON`, are appended to the
        arguments. The program writes `PullProgress` lines to standard output and exits with 0, or writes the reason of
        its failure to standard error.
        """


@runtime_checkable
class DeviceAware(Backend, Protocol):
    """A backend that says what it computes on. The daemon keeps or imports a foreign format accordingly."""

    @property
    def device(self) -> str:
        """The device on this machine: `cpu`, `metal`, `cuda`, ... Found without importing a library of the engine."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The foreign formats that it runs as they are (`gguf`); empty while it cannot run at all."""


@runtime_checkable
class Spreader(Backend, Protocol):
    """A backend for models that are declared as a cluster, `[models."NAME".cluster]`.

    It runs a model as a group of processes, on one or several machines. It is never asked to run other models.
    """

    spreads: str
    """The name of the backend whose models it spreads. `[models."NAME"] backend` may name either backend."""

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        """Estimate as `Backend.estimate`, for the part of the model that this machine holds.

        Called before each load, in a thread; `command` is called with the same `cluster` afterwards. Raises ConfigError
        if the group is impossible.
        """


def can_spread(backend: Backend) -> TypeGuard[Spreader]:
    """True if a backend is for clusters. Only the class is inspected, because code of a plugin may fail."""
    return hasattr(type(backend), "share")


def knows_device(backend: Backend) -> TypeGuard[DeviceAware]:
    """True if a backend says what it computes on. Only the class is inspected, because code of a plugin may fail."""
    return hasattr(type(backend), "runs") and hasattr(type(backend), "device")


@runtime_checkable
class Seeing(Backend, Protocol):
    """A backend that says with which models it answers pictures. Others answer them with each model that says so."""

    def sees(self, model: InstalledModel) -> bool:
        """Return whether it answers pictures with this model. Called when models are listed; may read small files."""


@runtime_checkable
class Hearing(Backend, Protocol):
    """A backend that says with which models it answers sounds. Others answer none."""

    def hears(self, model: InstalledModel) -> bool:
        """Return whether it answers sounds with this model. Called when models are listed; may read small files."""


@runtime_checkable
class Converting(Backend, Protocol):
    """A backend with a program that makes files of a format which it runs as it is: quantised ones, adapters."""

    def converter(self, format: str) -> RunnerCommand | None:
        """Return the program, or None. It is called as an importer is and writes one file into its folder.

        Options: `quantize`, the name of a type; or `base`, the weights for which the source, a folder, is an adapter.
        """


def can_convert(backend: Backend) -> TypeGuard[Converting]:
    """True if a backend has such a program. Only the class is inspected, because code of a plugin may fail."""
    return hasattr(type(backend), "converter")


def knows_pictures(backend: Backend) -> TypeGuard[Seeing]:
    """True if a backend says with which models it answers pictures. Only the class is inspected."""
    return hasattr(type(backend), "sees")


def knows_sounds(backend: Backend) -> TypeGuard[Hearing]:
    """True if a backend says with which models it answers sounds. Only the class is inspected."""
    return hasattr(type(backend), "hears")


@runtime_checkable
class Source(Protocol):
    """Fetches a model's files for a store."""

    name: str
    store: str
    """The name of the store that keeps its models."""

    def provides(self, name: ModelName) -> str | None:
        """Return a description of the fetch (`hub:org/name@main`), or None if the name is not this source's. No I/O.

        Called by the service for each pull, source by source. Only the source of a host may provide a name with that
        `host`, or one that was typed `via` that host. If `fetch` then raises NotFound or Unsupported before anything
        was fetched, the service asks the next source.
        """

    def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download into the folder `into`, which may hold a part of an earlier download, and verify every file.

        Called by a store during a pull. Ends when everything is there. Raises NotFound, Unauthorized, UpstreamError,
        StorageError.
        """

    def format(self, name: ModelName) -> str:
        """Return the format of the files that `fetch` writes (`mlx`, `gguf`)."""


@runtime_checkable
class Previewer(Protocol):
    """A source that tells what a pull would fetch, for `pull --dry-run`."""

    def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield what a name may stand for, first what `fetch` would take. `into`: an empty folder for outlines.

        Raises what `fetch` raises before it has fetched anything.
        """


@runtime_checkable
class Publisher(Protocol):
    """A source that also accepts uploads. The service uses that of the model's store for `push`, or else the first.

    `insecure` is passed only where plain HTTP is allowed.
    """

    def push(self, model: InstalledModel, target: ModelName, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Upload the files of an installed model under a name. Raises Unauthorized, UpstreamError, Unsupported."""


@runtime_checkable
class Store(Protocol):
    """Keeps installed models on disk. Called by the service. A store does its file work in threads.

    A class with `read_only = True` changes nothing: other stores create models over those that it lists.
    """

    name: str

    async def list(self) -> Sequence[InstalledModel]:
        """Return every complete model. The doctor, not this list, reports partial and damaged ones."""

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """Return the installed model of a name, or None. Raises StorageError if its files are damaged."""

    def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch a model, import it if needed, verify it, and move it into place.

        A pull can be resumed. The service runs one at a time for each model.
        """

    async def delete(self, name: ModelName) -> None:
        """Remove a model, damaged or not, and files that no other model needs. Raises NotFound, StorageError."""

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Install a model under a second name, without copying weights where the file system allows it."""

    def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Create a model from files or from an installed one. A `Keeper` gets the converter of the format it keeps."""


def is_read_only(store: Store) -> bool:
    """True for a store that only lists models. Only the class is inspected, because code of a plugin may fail."""
    return getattr(type(store), "read_only", False) is True


@runtime_checkable
class Keeper(Store, Protocol):
    """A store that keeps models in a foreign format without importing them, for backends that run it unchanged."""

    keeps: tuple[str, ...]
    """The formats, for example `gguf`. Read when a new model is created for a certain backend."""


def can_keep(store: Store) -> TypeGuard[Keeper]:
    """True if a store keeps foreign formats. Only the class is inspected, because code of a plugin may fail."""
    return hasattr(type(store), "keeps")


class Engine(Protocol):
    """Holds the weights of one model and generates. `ollmlx.runner` calls it in the runner process, on its event loop.

    `load` and `close` are called once. `generate` is called for each request, and several requests run at the same
    time. Closing the iterator of `generate` cancels the request, in any phase.
    """

    async def load(self, config: RunnerConfig) -> None:
        """Load the model. Raises InvalidRequest or StorageError for an unusable model, OutOfMemory."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield events in the order that `ollmlx.model.events` states. Raises OllmlxError."""

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return one vector for each input. Raises Unsupported if the model has no embeddings."""

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the token ids of a text, or of a conversation after the chat template."""

    async def detokenize(self, tokens: Tokens) -> str:
        """Return the text of token ids."""

    def status(self) -> Progress:
        """Return the present state and progress. Called every second; must return at once, also during computation."""

    async def trim(self) -> None:
        """Release memory that is only a cache. Called at the soft memory limit and when the model idles."""

    async def close(self) -> None:
        """Save caches that are worth keeping and release the device. Called once, before the process exits."""


class Reranker(Engine, Protocol):
    """An engine that also scores documents."""

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return a score for each document. Raises Unsupported if the model is no reranker, ContextExceeded."""


def can_rerank(engine: Engine) -> TypeGuard[Reranker]:
    """True if an engine scores documents. Only the class is inspected."""
    return hasattr(type(engine), "rerank")


class Transcriber(Engine, Protocol):
    """An engine that also writes down what is spoken."""

    def transcribe(self, request: TranscribeRequest) -> AsyncIterator[Event]:
        """Yield `Listened` and `Segment`, then `Done`. Raises InvalidRequest for a file that holds no audio."""


class Speaker(Engine, Protocol):
    """An engine that also speaks."""

    def speak(self, request: SpeechRequest) -> AsyncIterator[Event]:
        """Yield the file as `Spoken`, then `Done`. Raises InvalidRequest for a voice that the model does not have."""


def can_transcribe(engine: Engine) -> TypeGuard[Transcriber]:
    """True if an engine writes down what is spoken. Only the class is inspected."""
    return hasattr(type(engine), "transcribe")


def can_speak(engine: Engine) -> TypeGuard[Speaker]:
    """True if an engine speaks. Only the class is inspected."""
    return hasattr(type(engine), "speak")


class Check(Protocol):
    """One check of the doctor. `codes`: the finding codes that it can report. `group`: its heading in the report."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def codes(self) -> tuple[str, ...]: ...

    async def run(self, context: Any, /) -> Sequence[Finding]:
        """Return the findings, none if everything is well. Changes nothing. An exception is reported as DOC001.

        context: an `ollmlx.testing.CheckContext`, the view of the machine, the settings and the daemon.
        """


Guarded = Callable[[int], AbstractContextManager[None]]
"""A context that protects a process group: while it is open, the group ends when the daemon ends, for any reason."""


def unguarded(pid: int) -> AbstractContextManager[None]:
    """Protect nothing. For callers without a daemon: the doctor, a test."""
    return nullcontext()


class PluginContext(Frozen):
    """The argument of the hooks.

    `settings`: the settings. `own`: the table `[plugins.NAME]` as the model that the plugin registered, or None.
    `guarded`: a plugin that starts a process starts it in a new session and waits for it inside `guarded(pid)`.
    """

    settings: Any
    own: Any = None
    guarded: Guarded = unguarded

    def typed(self) -> Settings:
        """The settings, for type checkers."""
        return cast("Settings", self.settings)
