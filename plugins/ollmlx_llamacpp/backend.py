"""The llama.cpp backend in the daemon: its settings, the models it accepts, their memory, the program that runs them.

The memory is computed from the header of the GGUF file alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ollmlx import GgufHeader, LaunchOptions, Refusal, RunnerCommand, read_gguf_header
from ollmlx.errors import StorageError
from ollmlx.storekit import gguf_parts
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_llamacpp.dialect import refuse_dialect

ENGINE: Final = "ollmlx_llamacpp.engine:LlamaCppEngine"
MISSING: Final = "ENV021"
INSTALL: Final = "pip install 'ollmlx[llamacpp]'"
LONGEST_ARRAY: Final = 4096
"""Items of the header's arrays that are read: enough for one number a layer. Vocabularies are skipped."""
MIB: Final = 1024 * 1024
PROCESS_BYTES: Final = 160 * MIB
"""The interpreter with llama.cpp's library and an empty context, measured on a CPU."""
BATCH_TOKENS: Final = 512
"""Prompt tokens computed at once, at most. Intermediate results grow with them."""
SHARED_SLOTS: Final = 16
"""Sequences at once when the settings do not say how many, and all share one cache."""
AUTOMATIC_SLOTS: Final = 4
"""The same when guesses need room in each batch, or each has a cache of its own..."""
CHEAP_CACHE_BYTES: Final = 1024 * MIB
"""...as long as these take no more than this, or than the weights."""
HEARD_PLACES: Final = 1500
"""Places of half a minute of sound in Whisper's encoder. That of Whisper large took 64 MB, and is counted as 107."""
BYTES_PER_VALUE: Final = {"f16": 2.0, "auto": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes that one cached key or value takes."""


class LlamaCppSettings(BaseModel):
    """`[plugins.llamacpp]`: how GGUF models are run. The defaults suit every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=0)] = Field(0, description="Threads that compute. 0: physical cores.")
    exact: bool = Field(
        False,
        description="Give each sequence a cache of its own, so that an answer is the same alone and beside others to"
        " the last bit. Takes memory for each, and fewer run at once.",
    )
    guess: bool = Field(
        False,
        description="Guess that a text which repeats goes on as before, so that a file is rewritten 1.5 times as fast."
        " Then 4 sequences run at once, and requests for logprobs are refused. Not with `exact`.",
    )
    gpu_layers: Annotated[int, Field(ge=-1)] = Field(
        -1, description="Layers that a GPU computes, where there is one. -1: as many as fit."
    )

    @model_validator(mode="after")
    def _guesses_round(self) -> LlamaCppSettings:
        if self.guess and self.exact:
            raise ValueError("guess does not go with exact: several tokens computed at once may round differently")
        return self


def xllamacpp_is_installed() -> bool:
    """True when a runner could import xllamacpp. Does not import it."""
    return importlib.util.find_spec("xllamacpp") is not None


def pyav_is_installed() -> bool:
    """True when a runner could decode sounds."""
    return importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class LlamaCppBackend:
    """Runs GGUF files. `installed` tells whether xllamacpp is installed, and `decodes` whether PyAV is."""

    name = "llamacpp"

    settings: LlamaCppSettings
    installed: Callable[[], bool]
    kv_cache_type: str = "auto"
    decodes: Callable[[], bool] = pyav_is_installed

    device = "cpu"
    """The device by which it is compared with an import. It uses its own GPU, if it has one, when it runs."""

    @property
    def runs(self) -> tuple[str, ...]:
        """GGUF, when llama.cpp is installed."""
        return ("gguf",) if self.installed() else ()

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """Return None for a GGUF file that llama.cpp reads, when that is installed."""
        if model.format != "gguf":
            return Refusal(reason=f"it runs GGUF files, not {model.format}", code="MDL005")
        if (refused := refuse_dialect(model)) is not None:
            return refused
        if not self.installed():
            return Refusal(reason="llama.cpp is not installed", hint=INSTALL, code=MISSING)
        return None

    def sees(self, model: InstalledModel) -> bool:
        """Return whether the model has a projector in a file of its own. llama.cpp reads none inside the weights."""
        return self.accepts(model) is None and model.defaults.projector is not None

    def hears(self, model: InstalledModel) -> bool:
        """Return whether the model's projector has an audio encoder, and sounds can be decoded."""
        return self.sees(model) and bool(model.projector_info.get("clip.has_audio_encoder")) and self.decodes()

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Return the bytes for files, caches and process. Raises StorageError for a file that is no usable GGUF."""
        files = [file for file in (model.path, model.defaults.draft) if file is not None]
        exact = self._is_exact(model)
        needs = [estimate(_read_shape(file), context, parallel, self.kv_cache_type, exact=exact) for file in files]
        beside = (*gguf_parts(model.path)[1:], model.defaults.projector, model.defaults.adapter)
        others = [file for file in beside if file is not None]
        return MemoryEstimate(
            weights=sum(need.weights for need in needs) + sum(_state(file).st_size for file in others),
            kv_cache=sum(need.kv_cache for need in needs),
            overhead=needs[0].overhead + encoder_work(model.projector_info),
            kv_per_token=sum(need.kv_per_token for need in needs),
        )

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        shape = _read_shape(model.path)
        exact = self._is_exact(model)
        # A draft model guesses better; beside pictures it was not tried.
        guess = self.settings.guess and not exact and model.defaults.projector is None and model.defaults.draft is None
        parallel = options.parallel or (AUTOMATIC_SLOTS if guess else 0)
        command = RunnerCommand.of_engine(
            ENGINE,
            slots=slots(shape, options.context_length, parallel, options.kv_cache_type, exact=exact),
            exact=exact,
            guess=guess,
            kv_cache_type=options.kv_cache_type,
            threads=self.settings.threads,
            gpu_layers=self.settings.gpu_layers,
        )
        return command.model_copy(update={"sandbox": "connect"})

    def trial(self, model: InstalledModel) -> str | None:
        """Return the module that loads a model on trial for the doctor."""
        return "ollmlx_llamacpp.dry_load" if self.installed() else None

    def _is_exact(self, model: InstalledModel) -> bool:
        """Return whether each sequence has a cache of its own. Encoders read their texts whole, and share nothing."""
        return self.settings.exact or "completion" not in model.capabilities

    def importer(self, format: str) -> RunnerCommand | None:
        """Return None: GGUF files are run as they are."""
        return None

    def converter(self, format: str) -> RunnerCommand | None:
        """Return the program that quantises GGUF files, copies those in Ollama's dialect, makes them of adapters."""
        return (
            RunnerCommand(argv=(sys.executable, "-P", "-m", "ollmlx_llamacpp.converter")) if format == "gguf" else None
        )


def _read_shape(file: Path) -> GgufShape:
    """Return the shape in a file's header, which is read once for each state of the file."""
    state = _state(file)
    return _cached_shape(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_shape(file: Path, size: int, modified: int) -> GgufShape:
    return GgufShape.of(read_gguf_header(file, longest=LONGEST_ARRAY))


def _state(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise StorageError(f"{file.name} cannot be read: {error.strerror or error}", code="MDL003") from error


# -- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GgufShape:
    """The sizes of a model that the estimate needs. `cached`: keys and values of one token, over all layers."""

    weights: int
    cached: int
    embedding: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, header: GgufHeader) -> GgufShape:
        """Read the sizes from a header; missing ones count as small."""
        embedding = _number(header.own("embedding_length"))
        heads = max(1, _largest(header.own("attention.head_count")))
        key = _number(header.own("attention.key_length")) or embedding // heads
        value = _number(header.own("attention.value_length")) or embedding // heads
        table = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
        return cls(
            weights=header.size,
            cached=_kv_heads(header, heads) * (key + value),
            embedding=embedding,
            inner=_largest(header.own("feed_forward_length")),
            vocabulary=table.shape[0] if table is not None and len(table.shape) == 2 else 0,
        )

    def kv_cache(self, context: int, kv_cache_type: str) -> int:
        return int(context * self.cached * BYTES_PER_VALUE.get(kv_cache_type, 2.0))


def slots(shape: GgufShape, context: int, parallel: int, kv_cache_type: str, *, exact: bool) -> int:
    """Return how many sequences run at once: `parallel`, or as many as are useful when it is 0.

    An exact runner reserves every sequence's cache in full length; else one cache of the context length is shared.
    """
    if parallel > 0:
        return parallel
    if not exact:
        return SHARED_SLOTS
    room = max(CHEAP_CACHE_BYTES, shape.weights)
    return max(1, min(AUTOMATIC_SLOTS, room // max(1, shape.kv_cache(context, kv_cache_type))))


def estimate(shape: GgufShape, context: int, parallel: int, kv_cache_type: str, *, exact: bool) -> MemoryEstimate:
    """Return the bytes for a context length in tokens and a number of sequences (0: automatic)."""
    width = slots(shape, context, parallel, kv_cache_type, exact=exact) if exact else 1
    results = BATCH_TOKENS * (shape.vocabulary + 6 * shape.embedding + 2 * shape.inner) * 4
    return MemoryEstimate(
        weights=shape.weights,
        kv_cache=width * shape.kv_cache(context, kv_cache_type),
        overhead=PROCESS_BYTES + results,
        kv_per_token=shape.kv_cache(1, kv_cache_type),
    )


def encoder_work(projector: Mapping[str, Any]) -> int:
    """Return the bytes of a projector's work on one picture, or on half a minute of sound."""
    found = [0]
    for kind in ("vision", "audio"):
        own = {key.removeprefix(f"clip.{kind}."): value for key, value in projector.items()}
        width, inner = _number(own.get("embedding_length")), _number(own.get("feed_forward_length"))
        side = _number(own.get("image_size")) // max(1, _number(own.get("patch_size")))
        found.append((HEARD_PLACES if kind == "audio" else side**2) * (6 * width + 2 * inner) * 4)
    return max(found)


def _kv_heads(header: GgufHeader, heads: int) -> int:
    """Return the key-value heads of all layers together; some architectures state one number a layer."""
    stated = header.own("attention.head_count_kv", heads)
    if isinstance(stated, list):
        return sum(_number(each) for each in stated)
    return _number(stated) * _number(header.own("block_count"))


def _largest(value: Any) -> int:
    return max((_number(each) for each in value), default=0) if isinstance(value, list) else _number(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40 else 0
