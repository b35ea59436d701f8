"""Loads and unloads: a thousand real runner processes with the fake engine, and the resources they leave in use.

    python benchmarks/cycles.py [--count 1000]

One pool, three models, one request to each runner. Before and after: descriptors, threads, tasks, child processes, the
pool's memory, files in its folder, where the runners' temporary files go, too. Exits 1 when something was left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from ollmlx.launch.spec import LaunchSpec
from ollmlx.settings import Settings
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.testing import engine_command, fake_model
from ollmlx.types import Caller, GenerateRequest, MemoryEstimate

MIB = 1024 * 1024
WARM_UP = 20
GROWTH = 16 * MIB
"""Growth of the pool's memory that counts as flat."""


def launch(number: int) -> LaunchSpec:
    name = f"parrot{number % 3}"
    command = engine_command("ollmlx.testing.fake:FakeEngine")
    estimate = MemoryEstimate(weights=64 * MIB, kv_cache=0, overhead=0)
    return LaunchSpec(
        key=name, model=fake_model(name), backend="fake", command=command, context_length=4096, estimate=estimate
    )


def holdings(folder: Path) -> dict[str, int]:
    """Return the resources of this process, and the number of files in the pool's folder."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/dev/fd")),  # noqa: PTH208
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "processes": len(psutil.Process().children(recursive=True)),
        "files, sockets, temporary files": sum(1 for path in folder.rglob("*") if not path.is_dir()),
    }


async def run(count: int, folder: Path) -> tuple[dict[str, int], dict[str, int], int]:
    os.environ["TMPDIR"] = str(folder)  # of the runners
    settings = {"storage": {"state": str(folder / "state")}, "memory": {"limit": "1GiB"}}
    pool = Pool(Settings.model_validate(settings))
    await pool.start()
    try:
        before, rss = {}, 0
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                before, rss = holdings(folder), psutil.Process().memory_info().rss
            one = launch(number)
            events = [event async for event in pool.generate(one, GenerateRequest(prompt="hi"), Caller(request_id="c"))]
            assert events[-1].type == "done", events
            assert await pool.unload(one.key)
        after = holdings(folder)
        return before, after, psutil.Process().memory_info().rss - rss
    finally:
        await pool.close(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ollmlx-cycles-") as folder:
        before, after, growth = asyncio.run(run(options.count, Path(folder)))
    print(f"| {options.count} loads and unloads | before | after |\n|---|---|---|")
    for name, then in before.items():
        print(f"| {name} | {then} | {after[name]} |")
    print(f"| growth of memory | | {growth / MIB:.1f} MiB |\n\n{time.monotonic() - began:.0f} s")
    return 0 if all(after[name] <= then + 1 for name, then in before.items()) and growth < GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
