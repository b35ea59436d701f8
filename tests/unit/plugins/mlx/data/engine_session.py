"""The real model through the engine, in a process with the right BLAS: prints what it found as one line of JSON.

python engine_session.py FOLDER STREAMS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.engine_requests import ask, collect, plain, running, together

from ollmlx.errors import OllmlxError
from ollmlx.plugin.contracts import Engine
from ollmlx.types import EmbedRequest
from ollmlx_mlx.engine.engine import MlxEngine

QUESTIONS = ("What is the capital of France?", "Write a haiku about the sea.", "Count from 1 to 10.", "Who was Hamlet?")


async def refused(engine: Engine, request: Any) -> list[str]:
    try:
        await collect(engine, request)
    except OllmlxError as error:
        return [error.kind, error.message]
    return ["", ""]


async def batching(engine: Engine) -> dict[str, Any]:
    greedy = [ask(question) for question in QUESTIONS]
    seeded = [ask(q, options={"temperature": 0.9, "seed": i, "top_k": 20 * i}) for i, q in enumerate(QUESTIONS)]
    alone = [(await collect(engine, request)).text for request in (*greedy, *seeded)]
    batch = [one.text for one in await together(engine, [*greedy, *seeded])]
    return {"alone": alone, "batch": batch}


async def shapes(engine: Engine) -> dict[str, Any]:
    small = await collect(engine, ask("Tell me more. " * 40, options={"num_ctx": 64, "num_predict": 8}))
    shifted = await collect(engine, plain("Once", {"num_ctx": 32, "num_predict": 60, "repeat_penalty": 1.3}))
    raw = await collect(engine, plain("The capital of France is", {"num_predict": 3}))
    continued = await collect(engine, plain(" And", {"num_predict": 3}, context=raw.done.context))
    return {
        "small": [small.done.prompt_tokens, small.done.dropped, small.done.reason],
        "shifted": [shifted.done.generated_tokens, shifted.done.reason],
        "raw": raw.text,
        "continued": list(continued.done.context[: len(raw.done.context)]) == list(raw.done.context),
    }


async def refusals(engine: Engine) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    return {
        "tools": await refused(engine, ask("x", tools=(tool,))),
        "suffix": await refused(engine, plain("a", suffix="b")),
        "context": await refused(engine, plain("a", context=(10**7,))),
    }


async def main(folder: Path, streams: int) -> None:
    found: dict[str, Any] = {}
    async with running(MlxEngine(), folder, engine_options={"weights": "float32", "streams": streams}) as engine:
        found["batching"] = await batching(engine)
        found["shapes"] = await shapes(engine)
        found["refusals"] = await refusals(engine)
        vectors = (await engine.embed(EmbedRequest(inputs=("a cat", "a kitten", "tax law"), dimensions=64))).embeddings
        found["vectors"] = [list(vector) for vector in vectors]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
