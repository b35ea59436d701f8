"""The device that MLX computes on, and its memory. Imports nothing of mlx-lm."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx

from ollmlx.protocol import RunnerConfig

_OUT_OF_MEMORY: Final = (
    "unable to allocate", "out of memory", "insufficient memory", "attempting to allocate", "[malloc"
)  # fmt: skip
CPU_BUFFERS: Final = 64 * 1024 * 1024
"""Bytes of free buffers that MLX may keep on a CPU. More of them made nothing faster there."""


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


def device_name() -> str:
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether MLX or Python could not get memory."""
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)
