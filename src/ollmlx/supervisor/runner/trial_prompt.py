"""The canary: readiness means that the model really computed something, not that a port is open."""

from __future__ import annotations

from contextlib import aclosing

from ollmlx.errors import RunnerFailed, from_kind
from ollmlx.supervisor.runner.client import RunnerClient
from ollmlx.types import Done, EmbedRequest, Failed, GenerateRequest, InstalledModel, Options

PROMPT = "Hello"


async def sing(client: RunnerClient, model: InstalledModel, request_id: str) -> None:
    """Decode one token (or, for a model that only embeds, compute one vector).

    Raises what the runner answers, RunnerFailed for an empty answer, Severed or Garbled for a broken runner.
    """
    if "completion" not in model.capabilities:
        result = await client.embed(EmbedRequest(request_id=request_id, inputs=(PROMPT,)))
        if not result.embeddings or not result.embeddings[0]:
            raise RunnerFailed("it computed no vector for a trial text", code="RUN003")
        return
    options = Options(num_predict=1, temperature=0.0)
    async with aclosing(
        client.generate(GenerateRequest(request_id=request_id, prompt=PROMPT, options=options))
    ) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Failed):
                raise from_kind(event.kind, f"it failed a trial prompt: {event.message}", code=event.code)
            if isinstance(event, Done):
                # An end of text as the very first token has no text and is a decoded token all the same.
                return
