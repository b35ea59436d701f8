"""`[plugins.llamacpp]`: how GGUF models are run."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class LlamaCppSettings(BaseModel):
    """Choices that only matter to the llama.cpp backend; the defaults suit every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=0)] = Field(0, description="Threads that compute. 0: physical cores.")
    spin: bool = Field(
        False,
        description="Threads that wait for one another on a CPU keep it busy: somewhat faster on an idle machine, many"
        " times slower on one that has other work.",
    )
    gpu_layers: Annotated[int, Field(ge=-1)] = Field(
        -1, description="Layers that a GPU computes, where there is one. -1: as many as fit."
    )
    prompt_batch: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Prompt tokens computed at once; a request can only be cancelled between two batches."
        " 0: by the size of the model on a CPU, 512 on a GPU.",
    )
