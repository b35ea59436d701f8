"""The real model through the engine, in a process with the right BLAS: prints what it found as one line of JSON.

python engine_session.py FOLDER CACHES STREAMS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from ollmlx.errors import OllmlxError
from ollmlx.plugin.contracts import Engine
from ollmlx.protocol import TokenizeRequest
from ollmlx.testing.requests import ask, cancel_when, collect, plain, running, together
from ollmlx.testing.waiting import eventually
from ollmlx.types import EmbedRequest, GenerateRequest, Prefill, Text
from ollmlx_mlx.engine.engine import MlxEngine

QUESTIONS = ("What is the capital of France?", "Write a haiku about the sea.", "Count from 1 to 10.", "Who was Hamlet?")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LONG = " ".join(f"Fact {n}: item {n} costs {n * 7 % 97} coins." for n in range(24))


async def left(engine: Engine, request: GenerateRequest, kind: type) -> int:
    """Leave a request at its first event of a kind; returns the steps that the engine made until the slot was free."""
    before = engine.status().progress
    await cancel_when(engine, request, kind)
    await eventually(lambda: engine.status().active == 0)
    return engine.status().progress - before


async def steps_of(engine: Engine, request: GenerateRequest) -> int:
    """Make a whole answer; returns the steps that it took."""
    before = engine.status().progress
    await collect(engine, request)
    return engine.status().progress - before


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
    counting = ask("Count from 1 to 10.", options={"num_predict": 40, "stop": ("4. 4",)})
    stopped = await collect(engine, counting)
    emoji = await collect(engine, plain("😀😃😄😁 Emoji: 😀😃😄", {"num_predict": 16}))
    person = await collect(engine, ask("A person as JSON.", options={"num_predict": 40}, format=PERSON))
    cut = await collect(engine, ask("A person as JSON.", options={"num_predict": 4}, format=PERSON))
    logged = await collect(engine, ask("Hi", options={"num_predict": 5}, top_logprobs=3))
    biased = await collect(engine, ask("Hi", options={"num_predict": 4, "logit_bias": {28: 100.0}}))
    small = await collect(engine, ask("Tell me more. " * 40, options={"num_ctx": 64, "num_predict": 8}))
    shifted = await collect(engine, plain("Once", {"num_ctx": 32, "num_predict": 60, "repeat_penalty": 1.3}))
    raw = await collect(engine, plain("The capital of France is", {"num_predict": 3}))
    continued = await collect(engine, plain(" And", {"num_predict": 3}, context=raw.done.context))
    return {
        "stopped": [stopped.text, stopped.done.reason, stopped.done.stop],
        "emoji": emoji.pieces,
        "person": [person.text, person.done.reason],
        "cut": [cut.text, cut.done.reason],
        "logprobs": [[lp.token, lp.logprob, [top.logprob for top in lp.top]] for lp in logged.logprobs],
        "logged": logged.text,
        "biased": biased.done.context[-4:],
        "small": [small.done.prompt_tokens, small.done.dropped, small.done.reason],
        "shifted": [shifted.done.generated_tokens, shifted.done.reason],
        "raw": raw.text,
        "continued": list(continued.done.context[: len(raw.done.context)]) == list(raw.done.context),
    }


async def refusals(engine: Engine) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    return {
        "schema": await refused(engine, ask("x", format={"type": "nonsense"})),
        "long": await refused(engine, ask("x " * 100, options={"num_ctx": 64}, truncate=False)),
        "tools": await refused(engine, ask("x", tools=(tool,))),
        "suffix": await refused(engine, plain("a", suffix="b")),
        "context": await refused(engine, plain("a", context=(10**7,))),
    }


async def leaving(engine: Engine) -> dict[str, Any]:
    once, again = (ask(f"{beginning}. {LONG} {LONG}", options={"num_predict": 1}) for beginning in ("A", "B"))
    story = ask("Write a long story.", options={"num_predict": 200})
    prefill = await left(engine, once, Prefill)
    decode = await left(engine, story, Text)
    return {
        "prefill": [prefill, await steps_of(engine, again)],  # another beginning: nothing of it is cached
        "decode": [decode, await steps_of(engine, story)],
        "after": (await collect(engine, ask(QUESTIONS[0]))).text,
    }


async def main(folder: Path, caches: Path, streams: int) -> None:
    found: dict[str, Any] = {}
    turn = [LONG + " Which item is the cheapest?", "Item 14.", "And the dearest?"]
    options = {"weights": "float32", "streams": streams}
    saved = {"cache_dir": caches, "cache_dir_bytes": 1 << 30, "engine_options": options}
    async with running(MlxEngine(), folder, **saved) as engine:
        found["batching"] = await batching(engine)
        found["shapes"] = await shapes(engine)
        found["refusals"] = await refusals(engine)
        found["leaving"] = await leaving(engine)
        vectors = (await engine.embed(EmbedRequest(inputs=("a cat", "a kitten", "tax law"), dimensions=64))).embeddings
        found["vectors"] = [list(vector) for vector in vectors]
        found["round trip"] = await engine.detokenize(await engine.tokenize(TokenizeRequest(text="Hello, wörld 😀")))
        cold = await collect(engine, ask(turn[0]))
        found["next"] = (await collect(engine, ask(*turn))).text
        found["cold prompt"] = cold.done.prompt_tokens
    async with running(MlxEngine(), folder, **saved) as engine:
        revived = await collect(engine, ask(*turn))
        found["revived"] = [revived.text, revived.done.cached_tokens]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
