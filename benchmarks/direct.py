"""Runs the MLX engine directly, for `engine.py port`. Reads a line of JSON and prints one, until the input ends.

python benchmarks/direct.py FOLDER STREAMS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from time import perf_counter

from ollmlx.bench.measure import TimedAnswer, rate, writing
from ollmlx.protocol import RunnerConfig
from ollmlx.testing import fake_model
from ollmlx.types import Done, GenerateRequest, Message, Options, Text
from ollmlx_mlx.engine.engine import MlxEngine


async def answer(engine: MlxEngine, seed: int, tokens: int) -> TimedAnswer:
    messages = tuple(Message(**message) for message in writing(seed))
    request = GenerateRequest(messages=messages, options=Options(temperature=0, num_predict=tokens))
    reply = TimedAnswer(perf_counter())
    async for event in engine.generate(request):
        if isinstance(event, Text):
            reply.last = perf_counter()
        elif isinstance(event, Done):
            reply.tokens = event.generated_tokens
    return reply


async def serve(folder: Path, streams: int) -> None:
    # The options with which the backend starts a runner for this model.
    options = {"weights": "float32", "streams": streams} if sys.platform == "linux" else {}
    model = fake_model(folder.name.replace("@", ":"), store="hub", format="mlx", path=folder)
    config = RunnerConfig(
        runner="r", token="t", model=model, context_length=8192, prompt_cache_bytes=1 << 30, engine_options=options
    )
    engine = MlxEngine()
    try:
        await engine.load(config)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            seeds = range(asked["seed"], asked["seed"] + asked["streams"])
            replies = await asyncio.gather(*(answer(engine, seed, asked["tokens"]) for seed in seeds))
            print(json.dumps({"rate": rate(replies)}), flush=True)
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
