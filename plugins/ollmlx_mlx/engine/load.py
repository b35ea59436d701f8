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
from mlx_lm.utils import _tokenizer_defaults, dequantize_model
from mlx_lm.utils import load_model as load_stored

from ollmlx.errors import OllmlxError, OutOfMemory, StorageError
from ollmlx.protocol import RunnerConfig
from ollmlx_mlx.engine.adapter import apply_adapter
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory

_OUT_OF_MEMORY: Final = (
    "unable to allocate", "out of memory", "insufficient memory", "attempting to allocate", "[malloc"
)  # fmt: skip
_STEPS: Final = 64
"""Parameters are brought into memory in about this many steps, each reported as progress."""
_THREADS: Final = 8
CPU_BUFFERS: Final = 64 * 1024 * 1024
"""Bytes of free buffers that MLX may keep on a CPU. More of them made nothing faster there."""

Advance = Callable[[float], None]


def limit_memory(config: RunnerConfig, core: Any) -> None:
    """Set MLX's limits from the budget that the daemon gave. `core` is `mlx.core`.

    MLX takes them as advice: the daemon enforces them. On a CPU few free buffers are kept: the C library has its own.
    """
    if config.memory_limit:
        core.set_memory_limit(config.memory_limit)
    if config.cache_limit is not None:
        on_cpu = core.default_device().type == core.DeviceType.cpu
        core.set_cache_limit(min(config.cache_limit, CPU_BUFFERS) if on_cpu else config.cache_limit)
    # Wired memory has panicked Macs that ran out: only on request, within the budget and Metal's advice.
    if config.wired != "off" and core.metal.is_available():
        most = int(core.device_info()["max_recommended_working_set_size"])
        wanted = config.model.size if config.wired == "model" else most
        core.set_wired_limit(min(most, wanted, config.memory_limit or most))


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


def device_name() -> str:
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def load_model(config: RunnerConfig, advance: Advance = lambda _: None) -> LoadedModel:
    """Load weights, tokenizer, adapter and draft model. `advance` is called with the fraction done, 0 to 1.

    Raises StorageError when files are missing, damaged or do not fit together, OutOfMemory when memory is short.
    """
    folder = config.model.path
    notes = [str(note) for note in config.engine_options.get("notes", ())]
    device = device_name()
    try:
        model, settings = load_stored(folder, lazy=True, trust_remote_code=config.allow_remote_code)
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
    model, settings = load_stored(folder, lazy=True)
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


def is_out_of_memory(error: Exception) -> bool:
    """Return whether MLX or Python could not get memory."""
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)


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
            dequantize_model(layer)
    dequantize_model(model)
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
