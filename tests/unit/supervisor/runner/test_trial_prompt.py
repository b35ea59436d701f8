"""Ready means that something was computed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from ollmlx.errors import OllmlxError, OutOfMemory
from ollmlx.supervisor.runner.client import RunnerClient
from ollmlx.supervisor.runner.trial_prompt import sing
from ollmlx.testing import fake_model
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, Failed, GenerateRequest, Text

EMBEDDING = fake_model("vectors").model_copy(update={"capabilities": ("embedding",)})


class Mouth:
    """A runner's client that answers as it was told."""

    def __init__(self, *events: Event, vectors: Sequence[tuple[float, ...]] = ()) -> None:
        self.events = events
        self.vectors = tuple(vectors)
        self.asked: list[GenerateRequest | EmbedRequest] = []

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        self.asked.append(request)
        for event in self.events:
            yield event

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.asked.append(request)
        return EmbedResult(embeddings=self.vectors, prompt_tokens=1)


async def sung(mouth: Mouth, model: Any) -> None:
    await sing(cast(RunnerClient, mouth), model, "r1")


async def test_one_token_is_enough() -> None:
    mouth = Mouth(Text(text="x"), Done())
    await sung(mouth, fake_model("parrot"))
    (request,) = mouth.asked
    assert isinstance(request, GenerateRequest)
    assert request.options.num_predict == 1


@pytest.mark.finding("RUN003")
@pytest.mark.parametrize("vectors", [(), ((),)])
async def test_a_model_that_computes_no_vector_is_not_ready(vectors: Sequence[tuple[float, ...]]) -> None:
    with pytest.raises(OllmlxError, match="computed no vector") as failed:
        await sung(Mouth(vectors=vectors), EMBEDDING)
    assert failed.value.code == "RUN003"
    await sung(Mouth(vectors=[(1.0,)]), EMBEDDING)


async def test_what_the_trial_prompt_fails_with_is_told() -> None:
    failure = Failed(kind="out_of_memory", message="needs 9 GiB", code="RUN005")
    with pytest.raises(OutOfMemory, match="it failed a trial prompt: needs 9 GiB") as failed:
        await sung(Mouth(failure), fake_model("parrot"))
    assert failed.value.code == "RUN005"
