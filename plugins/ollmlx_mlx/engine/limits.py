"""MLX's own limits, from the budget that the daemon gave. MLX takes them as advice: the daemon enforces them."""

from __future__ import annotations

from typing import Any

from ollmlx.protocol import RunnerConfig


def limit_memory(config: RunnerConfig, core: Any) -> None:
    """Set the limits of a process that will hold this model. `core` is `mlx.core`."""
    if config.memory_limit:
        core.set_memory_limit(config.memory_limit)
    if config.cache_limit is not None:
        core.set_cache_limit(config.cache_limit)
    # Wired memory has panicked Macs that ran out: only on request, within the budget and Metal's advice.
    if config.wired != "off" and core.metal.is_available():
        most = int(core.device_info()["max_recommended_working_set_size"])
        wanted = config.model.size if config.wired == "model" else most
        core.set_wired_limit(min(most, wanted, config.memory_limit or most))
