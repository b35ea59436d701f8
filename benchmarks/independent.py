"""ollmlx and its peers, measured by a program of other people: llama-benchy, which asks OpenAI's chat route.

    python -m venv BENCHY && BENCHY/bin/pip install llama-benchy
    python benchmarks/independent.py --program BENCHY/bin/llama-benchy [--llama-server PATH] [--mlx]
    python benchmarks/independent.py --program ... --write docs/benchmarks.md

The servers take turns. No two prompts begin alike, and the caches of prompts are off (`--no-cache`).
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.server
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import peers
import psutil
import sides
from engine import Table, write

from ollmlx.bench.measure import Target

BOOK = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
"""The text of the prompts."""
Rates = dict[int, dict[str, float]]
"""For each number of streams: prompt tokens a second, generated tokens a second, milliseconds to the first token."""
SHOWN = {"prompt tokens/s": "pp_throughput", "tokens/s": "tg_throughput", "first token, ms": "e2e_ttft"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def book() -> Iterator[str]:
    """Serve the text of the prompts: the program takes it from an address."""
    handler = functools.partial(Quiet, directory=str(BOOK.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{BOOK.name}"
        server.shutdown()


async def asked(target: Target, tokenizer: Path, text: str, options: argparse.Namespace) -> Rates:
    """Let the program measure one server once."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        argv = [options.program, "--base-url", target.url, "--model", target.model, "--tokenizer", str(tokenizer)]
        argv += ["--pp", str(options.prompt_tokens), "--tg", str(options.tokens), "--exact-tg", "--runs", "1"]
        argv += [
            "--concurrency",
            *map(str, options.streams),
            "--no-cache",
            "--skip-coherence",
            "--latency-mode",
            "none",
        ]
        argv += ["--latency-mode", "none", "--book-url", text, "--format", "json", "--save-result", str(result)]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": folder}
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, env=env)
        if await process.wait() != 0:
            raise SystemExit(f"{options.program} failed against {target.label}")
        found = json.loads(result.read_text(encoding="utf-8"))["benchmarks"]
    return {one["concurrency"]: {name: one[field]["mean"] for name, field in SHOWN.items()} for one in found}


def table(targets: list[Target], measured: list[list[Rates]], options: argparse.Namespace) -> Table:
    """Return medians over the rounds, a column for each server."""
    lines = [["", *(target.label for target in targets)]]
    for count in options.streams:
        for name in SHOWN:
            values = [median(round[count][name] for round in rounds) for rounds in measured]
            streams = f"{count} stream{'s' if count > 1 else ''}"
            lines.append([f"{name}, {streams}", *(f"{value:,.1f}" for value in values)])
    caption = f"prompts of {options.prompt_tokens} tokens, {options.tokens} an answer, medians of {options.rounds}"
    return Table(caption, lines, {"rounds": measured})


async def compare(options: argparse.Namespace, folder: Path) -> Table:
    gguf, found = await asyncio.to_thread(peers.small_model, folder), await asyncio.to_thread(sides.weights, folder)
    async with AsyncExitStack() as stack:
        daemon = stack.enter_context(sides.ollmlx(folder / "peers"))
        peers.created(daemon, gguf, "peer")
        targets = [Target("ollmlx", f"{daemon.url}/v1", "peer")]
        cores = psutil.cpu_count(logical=False) or 1
        server = await stack.enter_async_context(peers.llama_server(gguf, options.llama_server, cores))
        targets.append(server[0])
        if options.mlx:
            peers.created(daemon, gguf, "peer-mlx", "mlx")
            targets.append(Target("ollmlx, MLX", f"{daemon.url}/v1", "peer-mlx"))
            server = await stack.enter_async_context(sides.mlx_lm_server(found.float32, sides.blas().env))
            targets.append(server[0])
        text = stack.enter_context(book())
        measured: list[list[Rates]] = [[] for _ in targets]
        for _ in range(options.rounds):
            for target, rounds in zip(targets, measured, strict=True):
                rounds.append(await asked(target, found.pulled, text, options))
    return table(targets, measured, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="llama-benchy")
    parser.add_argument("--llama-server", metavar="PATH", help="the program llama-server")
    parser.add_argument("--mlx", action="store_true", help="measure MLX, too")
    parser.add_argument("--streams", type=lambda text: tuple(map(int, text.split(","))), default=(1, 4, 8))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=360)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its marks in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as folder:
        found = asyncio.run(compare(options, Path(folder)))
    if options.write:
        write(options.write, "independent.py", found, f"ollmlx {version('ollmlx')}")
    print(f"{found.title}.\n\n{found.markdown}")


if __name__ == "__main__":
    main()
