"""The BLAS libraries of this machine, compared in processor time, in turns.

    python benchmarks/blas.py products     products of one thread, as the engine computes them
    python benchmarks/blas.py tokens       answers of the MLX engine, prompts included
    python benchmarks/blas.py starts --rounds 50 [--busy 2]
                                           what first starts choose, each with an empty state folder; a second each

`OpenBLAS, AVX2` is OpenBLAS with the kernels for processors without AVX-512. Other work on the machine disturbs
processor time less than time, through memory and cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
import sides

from ollmlx_mlx.daemon.machine import BlasChoice, MlxMachine
from ollmlx_mlx.linux_cpu.blas import TunedBlas, candidates
from ollmlx_mlx.linux_cpu.openblas import PlainCopies
from ollmlx_pypi.source import cache_folder

START = """
import sys
from pathlib import Path
from ollmlx_mlx.daemon.backend import find_blas
from ollmlx_mlx.daemon.machine import MlxMachine
choice = find_blas(MlxMachine.here(), Path(sys.argv[1]) / "blas.json").choose("auto", 0)
print(choice.name, *(f"({path}: {problem})" for path, problem in choice.rejected))
"""
"""A daemon's own first choice, as its first MLX runner is started."""
SHAPES = [(1, 576, 1536), (1, 576, 49152), (4, 576, 49152), (1, 1536, 8960), (4, 8960, 1536), (64, 576, 1536)]
SHAPES += [(512, 576, 1536), (512, 1536, 8960)]
MANY = 12_000_000
"""Weights that do not fit a cache: a product is repeated with so many others."""
PROGRAM = """
import json, sys, time
import mlx.core as mx
from ollmlx_mlx.linux_cpu.layers import product
mx.set_default_device(mx.cpu)
for rows, features, outputs in json.loads(sys.argv[1]):
    count = max(1, int(sys.argv[2]) // (features * outputs))
    weights = [mx.ones((outputs, features)) * 0.5 for _ in range(count)]
    inputs = mx.ones((rows, features)) * 0.5
    mx.eval(weights, inputs)
    times = []
    for _ in range(6):
        began = time.process_time()
        mx.eval([product(inputs, weight) for weight in weights])
        times.append((time.process_time() - began) / count)
    print(min(times[1:]), flush=True)
"""


def libraries() -> dict[str, BlasChoice]:
    """Return what can be used here, each with its environment for one thread."""
    machine, copies = MlxMachine.here(), PlainCopies(None)
    found: dict[str, BlasChoice] = {}
    for candidate in candidates(machine, "auto", 1, copies):
        only = str(candidate.packaged or candidate.path)
        choice = TunedBlas(machine, lambda _: "", lambda _: None, copies).choose(only, 1)
        found.setdefault(choice.name, choice)
    if "OpenBLAS" in found and machine.avx512:
        kernels = {**found["OpenBLAS"].env, "OPENBLAS_CORETYPE": "Haswell"}
        found["OpenBLAS, AVX2"] = replace(found["OpenBLAS"], env=kernels)
    return found


def products(rounds: int) -> None:
    times: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for name, choice in libraries().items():
            argv = [sys.executable, "-c", PROGRAM, json.dumps(SHAPES), str(MANY)]
            done = subprocess.run(argv, env=sides.environment(choice.env), capture_output=True, text=True, check=True)
            times.setdefault(name, []).append([float(line) * 1e6 for line in done.stdout.split()])
    print("| rows x features, outputs |", " | ".join(times), "|")
    for at, (rows, features, outputs) in enumerate(SHAPES):
        best = [min(seconds[at] for seconds in found) for found in times.values()]
        print(f"| {rows} x {features}, {outputs} |", " | ".join(f"{one:,.0f}" for one in best), "|")


async def tokens(rounds: int, cache: Path) -> None:
    weights, length = sides.weights(cache), 32
    async with AsyncExitStack() as stack:
        engines = {
            name: await stack.enter_async_context(sides.direct(weights.pulled, replace(choice, streams=2)))
            for name, choice in libraries().items()
        }
        print("| streams |", " | ".join(engines), "|")
        for streams in (1, 4, 8):
            spent: dict[str, list[float]] = {name: [] for name in engines}
            for turn in range(rounds + 1):  # the first one warms up
                for name, engine in engines.items():
                    before = psutil.Process(engine.pid).cpu_times()
                    await engine.rate(streams, length, 1000 * turn + streams)
                    after = psutil.Process(engine.pid).cpu_times()
                    used = after.user + after.system - before.user - before.system
                    spent[name].append(used / (streams * length) * 1000)
            print(
                f"| {streams} |", " | ".join(f"{median(found[1:]):.1f} ms" for found in spent.values()), "|", flush=True
            )


def starts(rounds: int, busy: int) -> None:
    """Print how often each library was chosen, and the seconds that a choice took."""
    chosen, seconds = Counter[str](), []
    with sides.busy(busy):
        for done in range(1, rounds + 1):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="ollmlx-") as state:
                argv = [sys.executable, "-c", START, state]
                start = subprocess.run(argv, env=sides.environment({}), stdout=subprocess.PIPE, text=True, check=True)
            seconds.append(time.monotonic() - began)
            chosen[start.stdout.strip()] += 1
            print(f"\r{done} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for name, count in chosen.most_common():
        print(f"{name}: {count} of {rounds}")
    print(f"{median(seconds):.1f} s each, at most {max(seconds):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["products", "tokens", "starts"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="of starts: processes that only count, beside them")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "benchmarks")
    given = parser.parse_args()
    if given.what == "products":
        products(given.rounds)
    elif given.what == "starts":
        starts(given.rounds, given.busy)
    else:
        asyncio.run(tokens(given.rounds, given.cache))


if __name__ == "__main__":
    main()
