"""llama.cpp in this process: its server, behind a unix socket that only this user can reach. Imports xllamacpp."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import xllamacpp

from ollmlx import RunnerConfig, read_gguf_header
from ollmlx.errors import InvalidRequest, OutOfMemory, StorageError, Unsupported
from ollmlx.types import ModelDefaults
from ollmlx_llamacpp.limits import template_fault
from ollmlx_llamacpp.spinning import SpinLimit, openmp_team

SPARE_THREADS: Final = 16
"""HTTP threads beside one for each sequence: for token counts, embeddings, requests that wait."""
BATCH_WORK: Final = 68 * 1024**3
"""Weight bytes times prompt tokens that one batch may cost on a CPU: a second on two slow cores, at most."""
SEEN_TOKENS: Final = 16
"""Tokens that must have occurred before for a guess that those after them come again. Fewer are wrong too often."""
GUESSED_TOKENS: Final = 31
"""Tokens of such a guess."""
MAX_DRAFT: Final = 64
"""Tokens that a draft model guesses at once, at most: each sequence needs room for them in a batch."""
RANK_TOKENS: Final = 8192
"""Tokens of the longest query with its document: llama.cpp computes both at once, and reserves memory for it."""
FOLLOW_UPS: Final = ("failed to load model", "exiting due to model loading error")
"""Errors in llama.cpp's log that only report an earlier one."""
PLAIN_TEMPLATE: Final = "{% for message in messages %}{{ message.content }}{% endfor %}"
NO_REASON: Final = "no reason given"
REASON_SECONDS: Final = 5.0
_VERBOSITY: Final = {"debug": 3, "info": 2, "warning": 2, "error": 1}
_CACHE_TYPES: Final = {"q8_0": "GGML_TYPE_Q8_0", "q4_0": "GGML_TYPE_Q4_0"}


@dataclass
class LlamaCppServer:
    """A loaded model: llama.cpp's socket and API key, its device, and its file's chat template, if there is one.

    `pool`: the tokens of the cache that all sequences share; 0 when each has its own. `saves_slots`: what a slot holds
    can be saved into the socket's folder, and loaded into another.
    """

    socket: Path
    key: str
    slots: int
    device: str
    notes: tuple[str, ...]
    template: str
    native: Any
    pool: int = 0
    saves_slots: bool = False
    judge: str = ""
    """The template in which a generative reranker's file asks about a document."""
    probability: bool = False
    """True if its scores are probabilities already, as llama.cpp makes them for Qwen3."""
    guesses: bool = False
    """True if a draft model or the text so far guesses: llama.cpp has no probabilities for tokens that were guessed."""
    spin: SpinLimit | None = None
    """The limit of how long its threads spin, where they are libgomp's."""

    def close(self) -> None:
        """Stop llama.cpp, wait for its threads, and remove its socket."""
        self.native = None
        if self.spin is not None:
            self.spin.end()
        shutil.rmtree(self.socket.parent, ignore_errors=True)


def start(config: RunnerConfig) -> LlamaCppServer:
    """Load the model; blocks. Raises StorageError for a file that llama.cpp cannot load, OutOfMemory, Unsupported."""
    header = read_gguf_header(config.model.path, longest=0, here=True)
    folder = Path(tempfile.mkdtemp(prefix="l-"))  # in the runner's own folder, whose path is short
    key = secrets.token_hex(16)
    device = _device()
    slots = max(1, int(config.engine_options.get("slots") or 1))
    params = _params(config, header.size, slots, device)
    params.api_keys = [key]
    params.hostnames = [str(folder / "s.sock")]
    template = str(header.metadata.get("tokenizer.chat_template") or "")
    fault = template_fault(template) if template else None
    if fault is not None:  # each conversation is refused for that reason before llama.cpp sees it
        params.chat_template = PLAIN_TEMPLATE
    drafted = _drafted(config.model.defaults)
    # A draft model's cache is not saved; and a copied beginning may round differently than one that was computed.
    if saves_slots := slots > 1 and params.kv_unified and not drafted:
        params.slot_save_path = f"{folder}/"
    try:
        native = xllamacpp.Server(params)
    except RuntimeError:
        reason = _failure_reason(params, folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise load_error(config.model.path.name, header.architecture, reason) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    pool = config.context_length if params.kv_unified else 0
    guess = bool(config.engine_options.get("guess"))
    notes = (
        *_notes(params, device, guess=guess),
        *([f"the draft model guesses {drafted} tokens at once"] if drafted else ()),
        *([f"no chats: {fault}"] if fault else ()),
    )
    judge = str(header.metadata.get("tokenizer.chat_template.rerank") or "")
    probability = header.architecture.startswith("qwen3")
    socket = folder / "s.sock"
    guesses = guess or drafted > 0
    spin = _spin_limit(params.cpuparams.n_threads) if device == "cpu" else None
    return LlamaCppServer(
        socket, key, slots, device, notes, template, native, pool, saves_slots, judge, probability, guesses, spin
    )


def _spin_limit(threads: int) -> SpinLimit | None:
    team = openmp_team(xllamacpp.xllamacpp.__file__)
    return SpinLimit(team, threads, psutil.cpu_count() or 1) if team is not None else None


def restore_signals() -> None:
    """Put back the handlers of SIGINT and SIGTERM, which llama.cpp's server replaces. Call on the main thread."""
    assert threading.current_thread() is threading.main_thread()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.getsignal(number))


def prompt_batch(size: int, device: str) -> int:
    """Return the prompt tokens computed at once for weights of `size` bytes.

    A request can only be cancelled between two batches, so a batch on a CPU is short.
    """
    if device != "cpu":
        return 512
    affordable = max(16, min(512, BATCH_WORK // max(1, size)))
    return int(1 << (affordable.bit_length() - 1))


def _notes(params: Any, device: str, *, guess: bool) -> tuple[str, ...]:
    caches = (
        "one shared cache: beside others an answer may round differently, [plugins.llamacpp] exact = true prevents it"
        if params.kv_unified
        else "a cache for each: an answer is the same alone and beside others"
    )
    return (
        f"llama.cpp on {device} with {params.cpuparams.n_threads} threads",
        f"{params.n_parallel} sequences, {params.n_batch} prompt tokens at once{', guesses from the text' * guess}",
        caches,
    )


def _params(config: RunnerConfig, size: int, slots: int, device: str) -> Any:
    options = config.engine_options
    params = xllamacpp.CommonParams()
    params.model.path = str(config.model.path)
    params.n_parallel = slots
    exact = bool(options.get("exact"))
    params.kv_unified = not exact
    params.cache_idle_slots = exact  # in a shared cache they stay where they are until the room is needed
    params.n_ctx = config.context_length * (slots if exact else 1)
    guesses = _add_guesses(params, config)
    # llama.cpp ends the process when the guesses of all sequences do not fit.
    params.n_batch = params.n_ubatch = max(prompt_batch(size, device), slots * (guesses + 1) if guesses else 0)
    threads = int(options.get("threads") or 0) or psutil.cpu_count(logical=False) or 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = int(options.get("gpu_layers", -1))
    params.fit_params = device != "cpu" and params.n_gpu_layers < 0
    params.warmup = False  # the daemon asks for a token before it calls a runner ready
    params.ctx_shift = True
    # llama.cpp's cache beside the slots knows no owners.
    params.cache_ram_mib = 0 if config.owned_caches else config.prompt_cache_bytes >> 20
    params.n_threads_http = slots + SPARE_THREADS
    params.verbosity = _VERBOSITY[config.log_level]
    params.embedding = True
    if "rerank" in config.model.capabilities:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
        params.n_batch = params.n_ubatch = min(config.context_length, RANK_TOKENS)
    elif "embedding" in config.model.capabilities:
        params.n_batch = params.n_ubatch = config.context_length  # an encoder reads its whole text at once
    else:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    _add_companions(params, config.model.defaults)
    kind = _CACHE_TYPES.get(str(options.get("kv_cache_type")))
    if kind is not None:
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, kind)
    return params


def _add_guesses(params: Any, config: RunnerConfig) -> int:
    """Let a draft model or the text so far guess, as configured. Return the tokens of the longest guess."""
    kinds = xllamacpp.common_speculative_type
    if count := _drafted(config.model.defaults):  # llama.cpp knows no other number for one request
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.n_max = count
        return count
    if not config.engine_options.get("guess"):
        return 0
    params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = SEEN_TOKENS, GUESSED_TOKENS
    return GUESSED_TOKENS


def _drafted(defaults: ModelDefaults) -> int:
    """Return the tokens that the draft model guesses at once; 0 without one, or where it is switched off."""
    return min(defaults.options.draft_num_predict, MAX_DRAFT) if defaults.draft is not None else 0


def _add_companions(params: Any, defaults: ModelDefaults) -> None:
    """Add image encoder, adapter and draft model. Raises StorageError when one of them is no GGUF file."""
    if defaults.projector is not None:
        read_gguf_header(defaults.projector, longest=0, here=True)
        params.mmproj.path = str(defaults.projector)
    if defaults.adapter is not None:
        _check_adapter(defaults.adapter)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(defaults.adapter), 1.0)]
    if defaults.draft is not None and _drafted(defaults):
        read_gguf_header(defaults.draft, longest=0, here=True)
        params.speculative.draft.mparams.path = str(defaults.draft)


def _check_adapter(file: Path) -> None:
    if file.is_dir():
        raise InvalidRequest(
            f"{file.name} is an adapter for MLX: llama.cpp takes one GGUF file",
            code="MDL007",
            hint="ollmlx create makes one of it: FROM the model and ADAPTER the folder, in a Modelfile",
        )
    if read_gguf_header(file, longest=0, here=True).metadata.get("general.type") != "adapter":
        raise InvalidRequest(f"{file.name} is no adapter", code="MDL007")


def _device() -> str:
    """Return the name of the device that computes: `cpu`, `cuda`, `metal`, …"""
    for device in xllamacpp.get_device_info():
        if "CPU" not in str(device["type"]) and "ACCEL" not in str(device["type"]):
            return str(device["name"]).rstrip("0123456789").lower() or "gpu"
    return "cpu"


def _failure_reason(params: Any, folder: Path) -> str:
    """Load once more with the log in a file: llama.cpp gives the reason of a failed load only there."""
    log = folder / "log"
    params.verbosity = _VERBOSITY["error"]
    params.hostnames = [str(folder / "again.sock")]
    saved = os.dup(2)
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
            with suppress(RuntimeError):
                xllamacpp.Server(params)
            return wait_for_reason(log)
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def wait_for_reason(log: Path, seconds: float = REASON_SECONDS) -> str:
    """Return the first error of a log. llama.cpp writes it on a thread of its own, so it may come late."""
    deadline = time.monotonic() + seconds
    while (reason := first_error(log.read_text(encoding="utf-8", errors="replace"))) == NO_REASON:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return reason


def first_error(log: str) -> str:
    """Return the first error that is no follow-up of another, without llama.cpp's prefix. Unfinished lines are skipped.

    An earlier attempt to load may have left follow-ups at the beginning of the log.
    """
    lines = [line for line in log.splitlines(keepends=True) if " E " in line and line.endswith("\n")]
    errors = [line.split(" E ", 1)[1].rstrip() for line in lines if not any(words in line for words in FOLLOW_UPS)]
    first = errors[0] if errors else NO_REASON
    return first.partition(": ")[2].removeprefix("error loading model: ") or first


def load_error(file: str, architecture: str, reason: str) -> StorageError | OutOfMemory | Unsupported:
    """Return the error for a model that llama.cpp cannot load."""
    if any(word in reason for word in ("allocate", "out of memory", "bad_alloc")):
        return OutOfMemory(f"llama.cpp cannot load {file}: {reason}")
    if "unknown model architecture" in reason:
        return Unsupported(
            f"the installed llama.cpp does not know the architecture {architecture!r} of {file}",
            code="MDL004",
            hint="pip install --upgrade xllamacpp",
        )
    return StorageError(f"llama.cpp cannot load {file}: {reason}", code="MDL003", hint="ollmlx doctor storage")
