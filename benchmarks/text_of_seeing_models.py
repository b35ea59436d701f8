"""Measures CPU time for a token of text: the same random weights through mlx-lm's engine and through the one that sees.

python -m benchmarks.text_of_seeing_models [FAMILY ...]: families of tests/vision_families.py that mlx-lm knows, too.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.engine_requests import ask, collect, running
from tests.vision_models import seeing_model

from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx_vlm.engine.engine import MlxVlmEngine

TOKENS, PROMPT, ROUNDS = 300, 1500, 3


async def measure(folder: Path, kind: type[MlxEngine]) -> tuple[float, float]:
    """Return the milliseconds of CPU time for a token of an answer and for one of a prompt."""
    async with running(kind(), folder, context_length=4096, prompt_cache_bytes=0) as engine:
        await collect(engine, ask("warm up"))
        spent = []
        for text, options in (("x", {"num_predict": TOKENS}), ("y " * (PROMPT // 2), {"num_predict": 1})):
            started = time.process_time()
            answer = await collect(engine, ask(text, options=options, top_logprobs=0))
            counted = len(answer.logprobs) if options["num_predict"] > 1 else answer.done.prompt_tokens
            spent.append((time.process_time() - started) * 1000 / counted)
    return spent[0], spent[1]


def main(families: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for family in families or ["qwen2_vl", "qwen3_vl", "qwen3_5", "gemma3"]:
            folder = seeing_model(Path(root) / family, family)
            for _ in range(ROUNDS):
                for kind in (MlxEngine, MlxVlmEngine):
                    answer, prompt = asyncio.run(measure(folder, kind))
                    print(f"{family:12} {kind.__name__:13} {answer:6.2f} ms a token, {prompt:6.3f} ms of a prompt")


if __name__ == "__main__":
    main(sys.argv[1:])
