"""From a model's folder to a model in memory, in the form of weights that suits the device. On the compute thread.

On Linux CPU everything that is computed with is float32: the half types are emulated there and up to 40 times slower.
Whether the weights themselves are unpacked to float32 (fastest with a good BLAS) or stay quantised is decided by the
backend, which knows the memory budget. On Metal and CUDA the model is left as it is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tokenizer_utils import load as load_tokenizer_files
from mlx_lm.utils import _get_classes, _tokenizer_defaults
from mlx_lm.utils import load_model as load_stored

from ollmlx.errors import OllmlxError, OutOfMemory, StorageError
from ollmlx.protocol import RunnerConfig
from ollmlx_mlx.engine.adapter import apply_adapter
from ollmlx_mlx.engine.device import device_name, is_out_of_memory
from ollmlx_mlx.engine.stored_names import allow_open_files, mlx_names
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.unpack import unpack_model

_STEPS: Final = 64
"""Parameters are brought into memory in about this many steps, each reported as progress."""
_THREADS: Final = 8

Advance = Callable[[float], None]
Read = Callable[[RunnerConfig], tuple[Module, dict[str, Any]]]
"""A function that returns a model, whose weights are not read yet, and its configuration."""


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to compute.

    `detokenizers`: of this tokenizer. `device`: `metal`, `cuda` or `cpu`. `notes`: choices and their reasons, for `ps`
    and the doctor. `config`: the model's `config.json`. `draft`: a small model of the same vocabulary, or None.
    """

    model: Module
    tokenizer: TokenizerWrapper
    detokenizers: DetokenizerFactory
    device: str
    notes: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    draft: Module | None = None


def read_text_model(config: RunnerConfig) -> tuple[Module, dict[str, Any]]:
    """Return mlx-lm's model of a folder, whose weights are not read yet, and its configuration."""
    return read_stored(config.model.path, trust=config.allow_remote_code)


def read_stored(folder: Path, *, trust: bool = False) -> tuple[Module, dict[str, Any]]:
    """As `read_text_model`, of any folder whose weights mlx-lm or Ollama wrote."""
    allow_open_files(folder)
    found: tuple[Module, dict[str, Any]] = load_stored(
        folder, lazy=True, trust_remote_code=trust, get_model_classes=classes_of
    )
    return found


def load_model(config: RunnerConfig, advance: Advance = lambda _: None, read: Read = read_text_model) -> LoadedModel:
    """Load weights, tokenizer, adapter and draft model. `advance` is called with the fraction done, 0 to 1.

    Raises StorageError when files are missing, damaged or do not fit together, OutOfMemory when memory is short.
    """
    folder = config.model.path
    notes = [str(note) for note in config.engine_options.get("notes", ())]
    device = device_name()
    try:
        model, settings = read(config)
        unpacked = device == "cpu" and config.engine_options.get("weights", "float32") == "float32"
        if device == "cpu":
            to_float32(model, unpack=unpacked)
        advance(0.05)
        with ThreadPoolExecutor(1, "tokenizer") as beside:
            # Reading the tokenizer holds the interpreter's lock, evaluating weights does not: do both at once.
            reading = beside.submit(_read_text, folder, settings, trust=config.allow_remote_code)
            _materialise(model, lambda part: advance(0.05 + 0.85 * part))
            tokenizer, detokenizers = reading.result()
        notes.append(_describe(model, device, settings))
        if config.model.defaults.adapter is not None:
            # Only unpacked weights can be fused: rounding to quantised ones would lose the adapter.
            notes.append(apply_adapter(model, folder / config.model.defaults.adapter, fuse=unpacked))
            if device == "cpu":
                model.update(tree_map(_as_float32, model.parameters()))
            mx.eval(model.parameters())
        streams = int(config.engine_options.get("streams", 1))
        if device == "cpu":
            fit_to_cpu(model, streams=streams)
        draft = None
        if config.model.defaults.draft is not None:
            draft = load_draft(
                folder / config.model.defaults.draft, tokenizer, device=device, unpack=unpacked, streams=streams
            )
            notes.append(f"drafts tokens with {config.model.defaults.draft.name}")
    except OllmlxError:
        raise
    except Exception as error:
        raise load_error(error, folder) from error
    advance(1.0)
    return LoadedModel(model, tokenizer, detokenizers, device, tuple(notes), settings, draft)


def classes_of(config: dict[str, Any]) -> tuple[type[Module], type[Any]]:
    """Return mlx-lm's class and arguments for a model, which then reads other names of weights, too.

    They are those of a model without a head, and Ollama's.
    """
    model_class, arguments = _get_classes(config)

    class WithHead(model_class):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            own: Any = tree_flatten(self.parameters(), destination={})
            completed = with_head(mlx_names(weights, own), tied=bool(config.get("tie_word_embeddings")))
            given: dict[str, mx.array] = super().sanitize(completed) if hasattr(model_class, "sanitize") else completed
            return given

    return WithHead, arguments


def with_head(weights: dict[str, mx.array], *, tied: bool) -> dict[str, mx.array]:
    """Return the weights of an embedding model as those of a language model; all others unchanged.

    transformers saves such a model as its body alone: without `model.` before the names, and without a head.
    """
    if "embed_tokens.weight" not in weights:
        return weights
    named = {f"model.{name}": array for name, array in weights.items()}
    return named if tied else {**named, "lm_head.weight": weights["embed_tokens.weight"]}


def read_tokenizer(folder: Path, settings: dict[str, Any], *, trust: bool = False) -> TokenizerWrapper:
    """Return the tokenizer of a folder, with the end tokens that `config.json` names."""
    return load_tokenizer_files(
        folder,
        {"trust_remote_code": trust},
        eos_token_ids=settings.get("eos_token_id"),
        defaults=_tokenizer_defaults(folder),
    )


def _read_text(folder: Path, settings: dict[str, Any], *, trust: bool) -> tuple[TokenizerWrapper, DetokenizerFactory]:
    tokenizer = read_tokenizer(folder, settings, trust=trust)
    return tokenizer, DetokenizerFactory(tokenizer)


def load_draft(folder: Path, tokenizer: TokenizerWrapper, *, device: str, unpack: bool, streams: int = 1) -> Module:
    """Return a draft model for speculative decoding. Raises StorageError when it has another vocabulary."""
    model, settings = read_stored(folder)
    if read_tokenizer(folder, settings).get_vocab() != tokenizer.get_vocab():
        raise StorageError(
            f"the draft model {folder.name} has another vocabulary than the model",
            code="MDL007",
            hint="use a smaller model of the same family as draft",
        )
    if device == "cpu":
        to_float32(model, unpack=unpack)
    _materialise(model, lambda _: None)
    if device == "cpu":
        fit_to_cpu(model, streams=streams)
    draft: Module = model
    return draft


def fit_to_cpu(model: Module, *, streams: int) -> None:
    """Change layers to forms that a Linux CPU computes faster, where `linux_cpu` is installed."""
    if find_spec("ollmlx_mlx.linux_cpu") is not None:
        from ollmlx_mlx.linux_cpu.layers import divide_layers  # not there on other systems

        divide_layers(model, streams=streams)


def free_unused() -> None:
    """Give memory that nothing uses back to the system: MLX's free buffers, and what the C library keeps of them."""
    mx.clear_cache()
    if find_spec("ollmlx_mlx.linux_cpu") is not None:
        from ollmlx_mlx.linux_cpu.memory import trim_heap  # not there on other systems

        trim_heap()


def load_error(error: Exception, folder: Path) -> OllmlxError:
    """Return the error for a failure of mlx, mlx-lm or transformers while loading."""
    text = " ".join(str(error).split())[:400] or type(error).__name__
    if is_out_of_memory(error):
        return OutOfMemory(f"not enough memory to load {folder.name}: {text}", code="RUN005")
    # mlx-lm raises every kind of exception for a damaged model. No path of this machine may be in the message.
    text = text.replace(str(folder), folder.name)
    return StorageError(
        f"cannot load {folder.name}: {type(error).__name__}: {text}", code="MDL003", hint="ollmlx doctor storage"
    )


def to_float32(model: Module, *, unpack: bool) -> None:
    """Turn half-precision arrays into float32, lazily; with `unpack`, quantised weights as well."""
    model.update(tree_map(_as_float32, model.parameters()))
    if not unpack:
        return
    # Each CPU stream is a thread of its own: unpack the layers in parallel.
    streams = [mx.new_stream(mx.Device(mx.DeviceType.cpu)) for _ in range(min(_THREADS, os.cpu_count() or 1))]
    layers = [layer for layer in getattr(model, "layers", ()) if isinstance(layer, Module)]
    for index, layer in enumerate(layers):
        with mx.stream(streams[index % len(streams)]):
            unpack_model(layer)
    unpack_model(model)
    # Modes such as mxfp4 unpack to bfloat16.
    model.update(tree_map(_as_float32, model.parameters()))


def _as_float32(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def parameters(model: Module) -> list[mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return [array for _, array in flat]


def _materialise(model: Module, advance: Advance) -> None:
    """Evaluate the parameters in portions, so that not all packed and unpacked forms are in memory together."""
    arrays = parameters(model)
    step = max(1, len(arrays) // _STEPS)
    for at in range(0, len(arrays), step):
        mx.eval(arrays[at : at + step])
        advance(min(1.0, (at + step) / len(arrays)))


def _describe(model: Module, device: str, settings: dict[str, Any]) -> str:
    packed = sorted({int(module.bits) for _, module in model.named_modules() if hasattr(module, "bits")})
    form = f"{'- and '.join(map(str, packed))}-bit weights" if packed else "weights in " + _float_name(model)
    return f"{form} on {device}" + (" (unpacked)" if not packed and "quantization" in settings else "")


def _float_name(model: Module) -> str:
    sizes: dict[str, int] = {}
    for array in parameters(model):
        name = str(array.dtype).rpartition(".")[2]
        sizes[name] = sizes.get(name, 0) + array.nbytes
    return max(sizes, key=lambda name: sizes[name], default="nothing")
