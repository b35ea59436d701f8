"""The numbers of docs/benchmarks.md about the MLX engine and the servers it is compared with, measured by turns.

    python benchmarks/engine.py                    all of it: about 20 minutes on two slow cores
    python benchmarks/engine.py peer resume        some of it
    python benchmarks/engine.py --write docs/benchmarks.md --json
    python benchmarks/engine.py peer --busy 2      beside two processes that only count

  peer    ollmlx and mlx_lm.server with the same BLAS and float32 weights: throughput, first tokens
  spread  the same two with requests that arrive at random moments, and the last first token of several
  stock   ollmlx and mlx_lm.server as pip installs it, with the BLAS of MLX's own wheel
  port    ollmlx and its engine without server and protocol
  resume  a conversation of 2,000 tokens after its model was unloaded, and the same prompt with an empty cache
  cold    from starting the program to the end of its first answer

The model is smollm2:135m, pulled once into the user's cache folder. Tokens per second count the whole request: the
prompt of about 65 tokens included. No two prompts begin alike, except for what the model's template puts before each.
Each server is warmed up first; figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import sides

from ollmlx.bench.measure import (
    MeasurementPlan,
    Target,
    ask,
    at_once,
    follow_up,
    measure,
    rate,
    reading,
    session_for_measuring,
    writing,
)
from ollmlx.bench.measure import rows as compared
from ollmlx.testing.waiting import wait_until
from ollmlx_pypi.source import cache_folder

LONG = 2000
"""The length of the conversation that is resumed, in words of about one token each."""


@dataclass
class Table:
    """The result of one scenario. `figures`: all rounds, for `--json`; `lines`: the header and rows of a table."""

    title: str
    lines: list[list[str]]
    figures: object

    @property
    def markdown(self) -> str:
        head, *rest = self.lines
        return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


@dataclass(frozen=True)
class Asked:
    weights: sides.Weights
    rounds: int
    stock_rounds: int


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _server_table(title: str, found: list, memory: list[int]) -> Table:
    for one, bytes_held in zip(found, memory, strict=True):
        one.memory = bytes_held
    header, lines = compared(found)
    figures = [{**one.summary(), "cold": one.cold, "cached": one.cached, "rates": one.rates} for one in found]
    return Table(title, [header, *lines], figures)


async def peer(asked: Asked) -> Table:
    """Measure both servers with the same BLAS and weights."""
    choice = sides.blas()
    plan = MeasurementPlan(streams=(1, 4, 8, 16), tokens=32, prompt_tokens=600, rounds=asked.rounds)
    with sides.ollmlx(asked.weights.store) as daemon:
        async with sides.mlx_lm_server(asked.weights.float32, choice.env) as (theirs, pid):
            found = await measure([sides.target(daemon), theirs], plan, progress)
            memory = [sides.resident(daemon.process.pid), sides.resident(pid)]
    return _server_table(f"{plan.tokens} tokens an answer, medians of {plan.rounds}, {choice.name}", found, memory)


async def spread(asked: Asked) -> Table:
    """Measure both servers with requests that arrive together, and at random within 0.1 s for each stream."""
    choice, tokens, streams = sides.blas(), 32, (4, 8, 16)
    found: dict[tuple[int, float], dict[str, list[tuple[float, float]]]] = {}
    with sides.ollmlx(asked.weights.store) as daemon:
        async with (
            sides.mlx_lm_server(asked.weights.float32, choice.env) as (theirs, _),
            session_for_measuring() as web,
        ):
            servers = [sides.target(daemon), theirs]
            for one in servers:
                await ask(web, one, writing(0), 8)
            for turn in range(asked.rounds):
                for count, seconds in itertools.product(streams, (0.0, 0.1)):
                    progress(f"round {turn + 1} of {asked.rounds}: {count} streams within {seconds * count:.1f} s")
                    for one in servers[:: -1 if turn % 2 else 1]:
                        answers = await at_once(web, one, count, tokens, 1000 * (turn + 1), seconds)
                        figures = (rate(answers), max(answer.first_token for answer in answers))
                        found.setdefault((count, seconds), {}).setdefault(one.label, []).append(figures)
    lines = [["streams, arriving within", *(f"{one.label}: tokens/s, last first token" for one in servers), "RATIO"]]
    for (count, seconds), by_server in found.items():
        pairs = [[median(column) for column in zip(*by_server[one.label], strict=True)] for one in servers]
        cells = [f"{speed:.1f}, {first:.2f} s" for speed, first in pairs]
        lines.append([f"{count}, {seconds * count:.1f} s", *cells, f"{pairs[0][0] / pairs[1][0]:.2f}x"])
    rounds = [[count, seconds, by_server] for (count, seconds), by_server in found.items()]
    return Table(f"{tokens} tokens an answer, medians of {asked.rounds}, {choice.name}", lines, rounds)


async def stock(asked: Asked) -> Table:
    """Measure mlx_lm.server with its defaults, on float32 weights: with half types and 4 bits it is even slower."""
    plan = MeasurementPlan(streams=(8,), tokens=24, prompt_tokens=600, rounds=asked.stock_rounds)
    with sides.ollmlx(asked.weights.store) as daemon:
        async with sides.mlx_lm_server(asked.weights.float32, {}) as (theirs, pid):
            found = await measure([sides.target(daemon), theirs], plan, progress)
            memory = [sides.resident(daemon.process.pid), sides.resident(pid)]
    return _server_table(f"{plan.tokens} tokens an answer, medians of {plan.rounds}", found, memory)


async def port(asked: Asked) -> Table:
    """Measure the cost of the server and the protocol."""
    tokens, streams = 64, (1, 8)
    found: dict[int, tuple[list[float], list[float]]] = {count: ([], []) for count in streams}
    with sides.ollmlx(asked.weights.store) as daemon:
        ours = sides.target(daemon, "ollama")
        async with (
            session_for_measuring() as session,
            sides.direct(asked.weights.pulled, sides.blas()) as engine,
        ):

            async def through_port(count: int, seed: int) -> float:
                return rate(await at_once(session, ours, count, tokens, seed))

            async def directly(count: int, seed: int) -> float:
                return await engine.rate(count, tokens, seed)

            await through_port(1, 0)
            await directly(1, 0)
            for turn in range(asked.rounds):
                for count in streams:
                    progress(f"round {turn + 1} of {asked.rounds}: {count} streams")
                    pair = [(found[count][0], through_port), (found[count][1], directly)]
                    for rates, speak in pair[:: -1 if turn % 2 else 1]:
                        rates.append(await speak(count, 1000 * (turn + 1)))
    lines = [["tokens/s", "through the port", "engine alone", "share"]]
    for count, (outside, inside) in found.items():
        share = median(outside) / median(inside)
        label = f"{count} stream{'s' if count > 1 else ''}"
        lines.append([label, f"{median(outside):.1f}", f"{median(inside):.1f}", f"{share:.0%}"])
    return Table(f"{tokens} tokens an answer, medians of {asked.rounds}", lines, found)


async def resume(asked: Asked) -> Table:
    """Measure a resumed conversation; both start with the model unloaded."""
    cold, resumed = [], []
    with sides.ollmlx(asked.weights.store) as daemon:
        ours = sides.target(daemon, "ollama")
        async with session_for_measuring() as session:
            for turn in range(asked.rounds):
                progress(f"round {turn + 1} of {asked.rounds}")
                messages = reading(LONG, seed=turn)
                await _unload(daemon)
                first = await ask(session, ours, messages, 8)
                await _unload(daemon)
                second = await ask(session, ours, follow_up(messages, first.text), 8)
                cold.append(first.first_token)
                resumed.append(second.first_token)
    lines = [
        [f"conversation of {first.prompt_tokens} tokens, model not loaded", "first token"],
        ["cold", f"{median(cold):.2f} s"],
        ["its next turn", f"{median(resumed):.2f} s"],
        ["share", f"{median(resumed) / median(cold):.0%}"],
    ]
    return Table(f"medians of {asked.rounds}", lines, {"cold": cold, "resumed": resumed})


async def _unload(daemon: sides.Daemon) -> None:
    body = {"model": sides.MODEL, "keep_alive": 0, "stream": False}
    answer = await asyncio.to_thread(daemon.post, "/api/generate", body)
    answer.raise_for_status()
    await asyncio.to_thread(wait_until, lambda: not daemon.get("/api/ps").json()["models"], 60)


async def cold(asked: Asked) -> Table:
    """Measure a start with a first answer of one token; the very first start also tries BLAS libraries."""
    choice = sides.blas()
    very_first, again, theirs = [], [], []
    for turn in range(asked.rounds):
        progress(f"round {turn + 1} of {asked.rounds}")
        with tempfile.TemporaryDirectory(prefix="ollmlx-") as state:
            very_first.append(await _first_answer(asked, Path(state)))
            again.append(await _first_answer(asked, Path(state)))
        begun = time.perf_counter()
        async with sides.mlx_lm_server(asked.weights.float32, choice.env) as (other, _):
            theirs.append(await _answered(other, begun))
    lines = [
        ["from start to first answer", "seconds"],
        ["ollmlx, its very first start", f"{median(very_first):.1f}"],
        ["ollmlx", f"{median(again):.1f}"],
        [f"mlx_lm.server with {choice.name}", f"{median(theirs):.1f}"],
    ]
    return Table(f"medians of {asked.rounds}", lines, {"very_first": very_first, "again": again, "theirs": theirs})


async def _first_answer(asked: Asked, state: Path) -> float:
    begun = time.perf_counter()
    with sides.ollmlx(asked.weights.store, state) as daemon:
        return await _answered(sides.target(daemon, "ollama"), begun)


async def _answered(target: Target, begun: float) -> float:
    async with session_for_measuring() as session:
        await ask(session, target, writing(0), 1)
    return time.perf_counter() - begun


SCENARIOS: dict[str, Callable[[Asked], Awaitable[Table]]] = {
    "peer": peer,
    "spread": spread,
    "stock": stock,
    "port": port,
    "resume": resume,
    "cold": cold,
}


def write(file: Path, mark: str, table: Table, versions: str) -> None:
    """Put a table between its two marks (`engine.py peer`) in a Markdown file. Raises SystemExit when they are not
    there."""
    marks = f"<!-- {mark} -->", f"<!-- end of {mark.split()[-1]} -->"
    content = f"{marks[0]}\n\n{table.title}. {versions}.\n\n{table.markdown}\n\n{marks[1]}"
    text = file.read_text(encoding="utf-8")
    new, count = re.subn(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", lambda _: content, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{file} has no marks {marks[0]} ... {marks[1]}")
    file.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--stock-rounds", type=int, default=3, help="rounds with the stock server: 3 minutes each")
    parser.add_argument("--busy", type=int, default=0, metavar="COUNT", help="processes that count beside the servers")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "benchmarks", help="where the model is kept")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between their marks in this file")
    parser.add_argument("--json", action="store_true", help="print all figures of all rounds instead of tables")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenarios if name not in SCENARIOS]:
        parser.error(f"there is no {unknown[0]}: choose from {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise its servers would go on running
    asked = Asked(sides.weights(arguments.cache), arguments.rounds, arguments.stock_rounds)
    versions = f"ollmlx {version('ollmlx')}, mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
    figures = {"machine": f"{platform.system()} {platform.machine()}"}
    for name in arguments.scenarios or SCENARIOS:
        progress(name)
        with sides.busy(arguments.busy):
            table = asyncio.run(SCENARIOS[name](asked))
        figures[name] = {"title": table.title, "table": table.lines, "rounds": table.figures}
        if arguments.write:
            write(arguments.write, f"engine.py {name}", table, versions)
        if not arguments.json:
            print(f"{name}: {table.title}\n\n{table.markdown}\n", flush=True)
    if arguments.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
