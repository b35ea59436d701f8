"""`[plugins.fake]`: the fake models a daemon has without any file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ollmlx.testing.fake.script import Script
from ollmlx.types import Capability

ALL_CAPABILITIES: tuple[Capability, ...] = ("completion", "tools", "insert", "thinking", "embedding")


class FakeSettings(BaseModel):
    """Declared models, and what pulling costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, Script] = Field({}, description="Fake models that are installed from the start.")
    weights: int = Field(10 * 1024 * 1024, description="Bytes that each model says it needs.")
    capabilities: tuple[Capability, ...] = Field(ALL_CAPABILITIES, description="What the models can do.")
    context_length: int = Field(4096, description="Their context length in tokens.")
    pull_steps: int = Field(4, description="Steps in which a pull reports progress.")
    pull_ms: float = Field(0, description="Length of a pull step in milliseconds.")
    pull_fault: str | None = Field(None, description="How a pull goes wrong: `upstream`, `not_found`, `storage`.")
