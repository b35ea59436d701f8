"""MLX's own limits come from the daemon's budget; wired memory is for Metal, on request, and bounded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ollmlx.protocol import RunnerConfig
from ollmlx.testing import fake_model
from ollmlx_mlx.engine.load import limit_memory

GIB = 1024**3


class Core:
    """What is called of `mlx.core`, on a machine with or without Metal."""

    def __init__(self, *, metal: bool) -> None:
        self.metal = SimpleNamespace(is_available=lambda: metal)
        self.limits: dict[str, int] = {}

    def device_info(self) -> dict[str, Any]:
        return {"max_recommended_working_set_size": 12 * GIB}

    def set_memory_limit(self, size: int) -> None:
        self.limits["memory"] = size

    def set_cache_limit(self, size: int) -> None:
        self.limits["cache"] = size

    def set_wired_limit(self, size: int) -> None:
        self.limits["wired"] = size


def limits(*, metal: bool, size: int = 4 * GIB, **fields: Any) -> dict[str, int]:
    core = Core(metal=metal)
    model = fake_model("parrot").model_copy(update={"size": size, "path": Path("/nonexistent")})
    limit_memory(RunnerConfig(runner="r", token="t", model=model, context_length=1, **fields), core)
    return core.limits


def test_memory_and_cache_are_limited_on_every_device() -> None:
    assert limits(metal=False, memory_limit=8 * GIB, cache_limit=0) == {"memory": 8 * GIB, "cache": 0}
    assert limits(metal=False) == {}


@pytest.mark.parametrize(
    ("wired", "size", "budget", "expected"),
    [
        ("off", 4 * GIB, 8 * GIB, None),
        ("model", 4 * GIB, 8 * GIB, 4 * GIB),
        ("model", 20 * GIB, None, 12 * GIB),
        ("max", 4 * GIB, 8 * GIB, 8 * GIB),
        ("max", 4 * GIB, 64 * GIB, 12 * GIB),
    ],
)
def test_wired_memory_is_on_request_and_within_budget_and_metals_advice(
    wired: str, size: int, budget: int | None, expected: int | None
) -> None:
    assert limits(metal=True, size=size, wired=wired, memory_limit=budget).get("wired") == expected
    assert "wired" not in limits(metal=False, size=size, wired=wired, memory_limit=budget)
