"""`[plugins.mlx]`: how MLX models are run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class MlxSettings(BaseModel):
    """Choices that only matter to the MLX backend; the defaults suit every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blas: str = Field(
        "auto",
        description="Linux CPU: library for matrix products. auto: MKL or OpenBLAS, tried out first; off; or a path.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Linux CPU: cores to compute on; two are used by two CPU streams, more by threads of that library."
        " 0: physical cores.",
    )
    weights: Literal["auto", "float32", "quantized"] = Field(
        "auto",
        description="Linux CPU: unpack quantised weights to float32, which is several times faster and larger."
        " auto: when they fit float32_share of the memory budget.",
    )
    float32_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="Share of the memory budget that one model's unpacked weights may take."
    )
