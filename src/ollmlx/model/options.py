"""Sampling and run-time options, with Ollama's names and meanings."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from ollmlx.model.frozen import Frozen


class Options(Frozen):
    """What shapes one generation. Only the fields that were set count when options are merged.

    Precedence is the caller's: `Options().over(...)` reads as default < model's parameters < request.
    Units are tokens unless said otherwise. `seed` -1 draws one; `num_predict` -1 means up to the context length and
    -2 fills it; `top_k` 0, `top_p` 1, `min_p` 0 and `typical_p` 1 switch that filter off; penalties are off at
    `repeat_penalty` 1 and 0 for the others; `repeat_last_n` -1 looks at the whole context and 0 at nothing.
    """

    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_k: Annotated[int, Field(ge=0)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: int = -1
    repeat_last_n: Annotated[int, Field(ge=-1)] = 64
    repeat_penalty: Annotated[float, Field(gt=0)] = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    num_predict: Annotated[int, Field(ge=-2)] = -1
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_keep: Annotated[int, Field(ge=-1)] = 4
    num_batch: int | None = None
    draft_num_predict: Annotated[int, Field(ge=0)] = 4
    logit_bias: dict[int, float] = {}
    backend: str | None = None

    def over(self, weaker: Options) -> Self:
        """These options, with what they leave unset taken from `weaker`."""
        return self.model_copy(
            update={name: getattr(weaker, name) for name in weaker.model_fields_set - self.model_fields_set}
        )

    @property
    def stated(self) -> dict[str, object]:
        """Only what somebody set."""
        return self.model_dump(exclude_unset=True)
