"""The MLX engine, driven directly, beside `mlx_lm.server` with the same model, weights and BLAS, in turns.

    python benchmarks/engine.py --model FOLDER [--rounds 5] [--streams 1,4,8,16] [--tokens 48] [--json]

Tokens per second count the whole request: the prompt of about 44 tokens included. First token: from asking until the
first piece of text has arrived. The server is asked over HTTP, as anyone would; the engine is not: what the daemon adds
is measured elsewhere. FOLDER should hold weights as mlx_lm.server is to run them (float32 on Linux CPU).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from ollmlx_mlx.blas import choose
from ollmlx_mlx.blas_probe import ChildProbe, ProbeMemory
from ollmlx_mlx.machine import Machine

TOPICS = ("the sea", "a red fox", "old maps", "winter bread", "tall towers", "quiet rivers", "two moons", "glass")
Speak = Callable[[list[dict[str, str]], int], Awaitable[tuple[float, int]]]
"""Messages and a number of tokens; answers seconds to the first token, and how many tokens came."""


def question(index: int) -> list[dict[str, str]]:
    topic = TOPICS[index % len(TOPICS)]
    return [{"role": "user", "content": f"Write a long story number {index} about {topic}, with many small details."}]


def long_question(index: int, words: int) -> list[dict[str, str]]:
    lines = " ".join(f"Fact {n} of list {index}: item {n} costs {n * 7 % 97} coins." for n in range(words // 9))
    return [{"role": "user", "content": f"{lines}\nWhich item is the cheapest?"}]


async def throughput(speak: Speak, streams: int, tokens: int, salt: int) -> float:
    started = time.perf_counter()
    told = await asyncio.gather(*(speak(question(salt * 100 + index), tokens) for index in range(streams)))
    return sum(count for _, count in told) / (time.perf_counter() - started)


async def turns(speak: Speak, salt: int, words: int) -> tuple[float, float]:
    """Seconds to the first token of a long prompt, cold, and of the turn after it."""
    asked = long_question(salt, words)
    cold, _ = await speak(asked, 8)
    again = [*asked, {"role": "assistant", "content": "Item 14."}, {"role": "user", "content": "And the dearest?"}]
    cached, _ = await speak(again, 8)
    return cold, cached


@asynccontextmanager
async def engine(model: Path) -> AsyncIterator[Speak]:
    from ollmlx.testing.asking import config_for
    from ollmlx.types import Done, GenerateRequest, Message, Options, Text
    from ollmlx_mlx.engine import MlxEngine

    own = MlxEngine()
    await own.load(config_for(model, parallel=16, context_length=8192, prompt_cache_bytes=1 << 30))

    async def speak(messages: list[dict[str, str]], tokens: int) -> tuple[float, int]:
        request = GenerateRequest(
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in messages),
            options=Options(temperature=0, num_predict=tokens),
        )
        started, first, count = time.perf_counter(), 0.0, 0
        async for event in own.generate(request):
            if isinstance(event, Text) and not first:
                first = time.perf_counter() - started
            elif isinstance(event, Done):
                count = event.generated_tokens
        return first, count

    yield speak
    await own.close()


@asynccontextmanager
async def server(model: Path) -> AsyncIterator[Speak]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        async with aiohttp.ClientSession() as session:

            async def speak(messages: list[dict[str, str]], tokens: int) -> tuple[float, int]:
                body = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
                body["stream_options"] = {"include_usage": True}
                started, first, count = time.perf_counter(), 0.0, 0
                async with session.post(url, json=body) as answer:
                    async for line in answer.content:
                        if not line.startswith(b"data: {"):
                            continue
                        chunk = json.loads(line[6:])
                        delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
                        if delta.get("content") and not first:
                            first = time.perf_counter() - started
                        count = (chunk.get("usage") or {}).get("completion_tokens", count)
                return first, count

            await _until_up(session, port)
            yield speak
    finally:
        process.terminate()
        await process.wait()


async def _until_up(session: aiohttp.ClientSession, port: int) -> None:
    for _ in range(600):
        try:
            async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("mlx_lm.server did not start")


Figures = dict[str, dict[str, list[float]]]


async def measure(arguments: argparse.Namespace) -> Figures:
    widths = [int(width) for width in arguments.streams.split(",")]
    figures: Figures = {}
    async with engine(arguments.model) as ours, server(arguments.model) as theirs:
        for speak in (ours, theirs):
            await speak(question(0), 8)
        for salt in range(arguments.rounds):
            # In turns, and the first one changes, so that a busy moment of the machine hits both.
            sides = [("ollmlx", ours), ("mlx_lm.server", theirs)]
            for name, speak in sides if salt % 2 else sides[::-1]:
                mine = figures.setdefault(name, {})
                for width in widths:
                    rate = await throughput(speak, width, arguments.tokens, salt)
                    mine.setdefault(f"{width} streams, tokens/s", []).append(rate)
                cold, cached = await turns(speak, salt, arguments.words)
                mine.setdefault("first token, cold, s", []).append(cold)
                mine.setdefault("first token, next turn, s", []).append(cached)
    return figures


def table(figures: Figures) -> str:
    names = list(figures)
    lines = [f"| | {' | '.join(sorted(names, reverse=True))} | ratio |", "|---|---|---|---|"]
    for measured in figures["ollmlx"]:
        ours = statistics.median(figures["ollmlx"][measured])
        theirs = statistics.median(figures["mlx_lm.server"][measured])
        ratio = ours / theirs if "tokens/s" in measured else theirs / ours
        lines.append(f"| {measured} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", default="1,4,8,16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "OLLMLX_BENCHMARK_CHILD" not in os.environ:
        machine = Machine.here()
        blas = choose(machine, ChildProbe(machine, ProbeMemory(None)))
        # The loader reads LD_PRELOAD at the start of a process only: start again, with the same BLAS for both sides.
        environment = {**os.environ, **blas.env, "OLLMLX_BENCHMARK_CHILD": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    figures = asyncio.run(measure(arguments))
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))


if __name__ == "__main__":
    main()
