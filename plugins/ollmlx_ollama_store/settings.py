"""The table `[plugins.ollama_store]`. A module of its own: the settings of all plugins are loaded at start-up."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class OllamaStoreSettings(BaseModel):
    """The registry that models of Ollama's names are pulled from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str = Field(
        "registry.ollama.ai",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9.\-]*(:[0-9]{1,5})?)?$",
        description="Registry for names without a host, such as `phi3:mini`, that no source before it provides."
        " Empty: only names with a host are pulled from registries.",
    )
