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

PREFIX: Final = "ollmlx-llamacpp-"
FOLDER: Final = Path("/tmp")  # noqa: S108 - a socket's path is short; the folder below is private and has a random name
SPARE_THREADS: Final = 16
"""HTTP threads beside one for each answer: token counts, embeddings, requests that wait."""
WORK: Final = 8 * 1024**3
"""Weight bytes times prompt tokens that one batch may cost on a CPU: a few tenths of a second on a small one."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
CONSEQUENCES: Final = ("failed to load model", "exiting due to model loading error")
UNTOLD: Final = "no reason given"
_VERBOSITY: Final = {"debug": 3, "info": 2, "warning": 2, "error": 1}
_CACHE_TYPES: Final = {"q8_0": "GGML_TYPE_Q8_0", "q4_0": "GGML_TYPE_Q4_0"}


@dataclass
class Native:
    """A loaded model: where llama.cpp listens, the key it wants, and what it computes on."""

    socket: Path
    key: str
    slots: int
    device: str
    notes: tuple[str, ...]
    server: Any

    def close(self) -> None:
        """Stop llama.cpp and remove its socket. Waits for its threads."""
        self.server = None
        shutil.rmtree(self.socket.parent, ignore_errors=True)


def start(config: RunnerConfig) -> Native:
    """Load the model; blocks. Raises StorageError for a file that llama.cpp cannot load, OutOfMemory, Unsupported."""
    header = read_gguf_header(config.model.path, longest=0)
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=FOLDER))
    key = secrets.token_hex(16)
    device = _device()
    slots = max(1, int(config.engine_options.get("slots") or 1))
    params = _params(config, header.size, slots, device)
    params.api_keys = [key]
    params.hostnames = [str(folder / "s.sock")]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        reason = why_not(params, folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise failure(config.model.path.name, header.architecture, reason) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    threads = params.cpuparams.n_threads
    notes = (
        f"llama.cpp on {device} with {threads} threads",
        f"{slots} sequences, {params.n_batch} prompt tokens at once",
    )
    return Native(folder / "s.sock", key, slots, device, notes, server)


def keep_signals() -> None:
    """llama.cpp's server takes SIGINT and SIGTERM for itself: give them back. Call on the main thread."""
    assert threading.current_thread() is threading.main_thread()
    for number in SIGNALS:
        signal.signal(number, signal.getsignal(number))


def sweep(folder: Path = FOLDER) -> None:
    """Remove the sockets of runners that were killed."""
    for left in folder.glob(f"{PREFIX}*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            with suppress(OSError):
                if left.lstat().st_uid == os.getuid():
                    shutil.rmtree(left)


def batch_for(size: int, device: str, stated: int) -> int:
    """Prompt tokens computed at once: few enough that a request which is given up ends soon. `size` in bytes."""
    if stated:
        return stated
    if device != "cpu":
        return 512
    affordable = max(16, min(256, WORK // max(1, size)))
    return int(1 << (affordable.bit_length() - 1))


def _params(config: RunnerConfig, size: int, slots: int, device: str) -> Any:
    options = config.engine_options
    params = xllamacpp.CommonParams()
    params.model.path = str(config.model.path)
    params.n_parallel = slots
    params.n_ctx = config.context_length * slots
    params.n_batch = params.n_ubatch = batch_for(size, device, int(options.get("prompt_batch") or 0))
    threads = int(options.get("threads") or 0) or psutil.cpu_count(logical=False) or 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = int(options.get("gpu_layers", -1))
    params.fit_params = device != "cpu" and params.n_gpu_layers < 0
    params.warmup = False  # the daemon asks for a token before it calls a runner ready
    params.ctx_shift = True
    params.cache_ram_mib = config.prompt_cache_bytes >> 20
    params.n_threads_http = slots + SPARE_THREADS
    params.verbosity = _VERBOSITY[config.log_level]
    params.embedding = True
    if "embedding" in config.model.capabilities:
        params.n_batch = params.n_ubatch = config.context_length  # an encoder reads its whole text at once
    else:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    _beside(params, config.model.defaults)
    kind = _CACHE_TYPES.get(str(options.get("kv_cache_type")))
    if kind is not None:
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, kind)
    return params


def _beside(params: Any, defaults: ModelDefaults) -> None:
    """The files that come with the weights: image encoder, adapter, draft model. Each has to be a GGUF file."""
    if defaults.projector is not None:
        read_gguf_header(defaults.projector, longest=0)
        params.mmproj.path = str(defaults.projector)
    if defaults.adapter is not None:
        _adapter(defaults.adapter)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(defaults.adapter), 1.0)]
    if defaults.draft is not None:
        read_gguf_header(defaults.draft, longest=0)
        params.speculative.draft.mparams.path = str(defaults.draft)


def _adapter(file: Path) -> None:
    if file.is_dir():
        raise InvalidRequest(
            f"{file.name} is an adapter for MLX: llama.cpp takes one GGUF file",
            code="MDL007",
            hint="convert_lora_to_gguf.py of llama.cpp makes one from a PEFT adapter",
        )
    if read_gguf_header(file, longest=0).metadata.get("general.type") != "adapter":
        raise InvalidRequest(f"{file.name} is no adapter", code="MDL007")


def _device() -> str:
    """What computes: `cpu`, `cuda`, `metal`, …"""
    for device in xllamacpp.get_device_info():
        if "CPU" not in str(device["type"]) and "ACCEL" not in str(device["type"]):
            return str(device["name"]).rstrip("0123456789").lower() or "gpu"
    return "cpu"


def why_not(params: Any, folder: Path) -> str:
    """llama.cpp says why only in its log, so load once more with the log in a file."""
    log = folder / "log"
    params.verbosity = _VERBOSITY["error"]
    params.hostnames = [str(folder / "again.sock")]
    saved = os.dup(2)
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
            with suppress(RuntimeError):
                xllamacpp.Server(params)
            return awaited_reason(log)
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def awaited_reason(log: Path, patience: float = 2.0) -> str:
    """The first error of a log that llama.cpp writes on a thread of its own: it may come `patience` seconds late."""
    until = time.monotonic() + patience
    while (reason := reason_in(log.read_text(encoding="utf-8", errors="replace"))) == UNTOLD:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return reason


def reason_in(log: str) -> str:
    """The first cause in a log, without llama.cpp's own prefix. What follows from one may still come from an earlier
    try; a line that is not whole yet does not count."""
    whole = [line for line in log.splitlines(keepends=True) if " E " in line and line.endswith("\n")]
    causes = [line.split(" E ", 1)[1].rstrip() for line in whole if not any(words in line for words in CONSEQUENCES)]
    told = causes[0] if causes else UNTOLD
    return told.partition(": ")[2].removeprefix("error loading model: ") or told


def failure(file: str, architecture: str, reason: str) -> StorageError | OutOfMemory | Unsupported:
    if any(word in reason for word in ("allocate", "out of memory", "bad_alloc")):
        return OutOfMemory(f"llama.cpp cannot load {file}: {reason}")
    if "unknown model architecture" in reason:
        return Unsupported(
            f"the installed llama.cpp does not know the architecture {architecture!r} of {file}",
            code="MDL004",
            hint="pip install --upgrade xllamacpp",
        )
    return StorageError(f"llama.cpp cannot load {file}: {reason}", code="MDL003", hint="ollmlx doctor storage")
