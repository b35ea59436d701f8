"""The pool of a model's context: more long prompts at once than it has room for, through the daemon with its defaults.

    python benchmarks/pool.py [--engines llamacpp,mlx] [--clients 32] [--tokens 6000] [--context 32768]

SmolLM2-135M, its file changed to claim a context of 32,768 tokens: what it answers beyond its own 8,192 is worth
nothing, what it costs is that of a model which has them. All clients ask at the same moment, each with another prompt
of about this many tokens. 32 of 6,000 take about 25 minutes for each engine on two idle cores; with `--tokens` and
`--context` a tenth as large it is the same trial in little. Printed is how many were answered whole, how many were
refused, and the most memory that the daemon's processes used beside the estimate. Exits 1 when a request was refused
or cut, or the estimate was too low.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import peers
import psutil
import sides

from ollmlx.testing.daemon import Daemon
from ollmlx.text.quantities import format_size

ANSWER = 16
TOKENS_PER_WORD = 2
"""A random number of one digit and the space before it, as SmolLM2's tokenizer splits them."""


def with_context(source: Path, target: Path, context: int) -> Path:
    """Copy a GGUF file of the architecture `llama`, with another context length."""
    data = bytearray(source.read_bytes())
    key = b"llama.context_length"
    at = data.index(key) + len(key) + 4  # behind the type of the value, a number of 32 bits
    data[at : at + 4] = context.to_bytes(4, "little")
    target.write_bytes(data)
    return target


async def ask(session: aiohttp.ClientSession, prompt: str) -> dict[str, Any]:
    body = {"model": "pool", "prompt": prompt, "raw": True, "stream": False, "truncate": False}
    body["options"] = {"num_predict": ANSWER, "temperature": 0}
    async with session.post("/api/generate", json=body) as answer:
        return {"status": answer.status, **await answer.json()}


async def watch(daemon: Daemon, found: list[int]) -> None:
    """Note the memory of the daemon's runners twice a second, until it is cancelled."""
    while True:
        used = 0
        for child in psutil.Process(daemon.process.pid).children(recursive=True):
            try:
                used += child.memory_full_info().uss
            except psutil.Error:
                continue
        found.append(used)
        await asyncio.sleep(0.5)


async def crowd(daemon: Daemon, clients: int, tokens: int) -> tuple[list[dict[str, Any]], int]:
    """Return the answers, and the largest amount of memory in bytes."""
    salt, memory = random.Random(7), [0]
    prompts = [" ".join(str(salt.randrange(10)) for _ in range(tokens // TOKENS_PER_WORD)) for _ in range(clients)]
    watching = asyncio.create_task(watch(daemon, memory))
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(daemon.url, timeout=timeout, connector=connector) as session:
        answers, began = [], time.monotonic()
        for done, answer in enumerate(asyncio.as_completed([ask(session, prompt) for prompt in prompts]), 1):
            answers.append(await answer)
            sys.stderr.write(f"  {done} of {clients} answered after {time.monotonic() - began:.0f} s\n")
    watching.cancel()
    return answers, max(memory)


def measure(engine: str, gguf: Path, store: Path, options: argparse.Namespace) -> bool:
    """Measure one engine and print a line. Returns False when a promise is broken."""
    with sides.ollmlx(store) as daemon:
        peers.created(daemon, gguf, "pool", engine)
        daemon.post("/api/generate", {"model": "pool"})  # loads it
        (loaded,) = daemon.get("/api/ps").json()["models"]
        began = time.monotonic()
        answers, memory = asyncio.run(crowd(daemon, options.clients, options.tokens))
        took = time.monotonic() - began
        (runner,) = daemon.get("/api/daemon").json()["runners"]
    refused = [answer for answer in answers if answer["status"] != 200]
    whole = [one for one in answers if one["status"] == 200 and one["eval_count"] == ANSWER]
    prompts = [one["prompt_eval_count"] for one in answers if one["status"] == 200]
    sys.stdout.write(
        f"{engine}: context {loaded['context_length']:,}, {len(answers)} prompts of {min(prompts, default=0):,} to"
        f" {max(prompts, default=0):,} tokens: {len(whole)} whole, {len(refused)} refused, {took:.0f} s; memory"
        f" {format_size(memory)}, reserved {format_size(runner['reserved'])}\n"
    )
    for answer in refused[:3]:
        sys.stdout.write(f"  {answer}\n")
    return len(whole) == len(answers) and memory <= runner["reserved"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="llamacpp,mlx")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--context", type=int, default=32_768)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-pool-") as folder:
        gguf = with_context(peers.small_model(Path(folder)), Path(folder) / "pool.gguf", options.context)
        kept = [measure(engine, gguf, Path(folder) / engine, options) for engine in options.engines.split(",")]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
