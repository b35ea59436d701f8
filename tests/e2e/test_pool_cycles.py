"""A thousand loads and unloads leave nothing behind: no process, thread, task, descriptor, socket, record or memory."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import psutil
import pytest
from tests.unit.supervisor.toy_runners import HandClock, ToyRunnerFactory, toy_spec

from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.settings import Settings
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.types import Caller, GenerateRequest

CALLER = Caller(request_id="cycle")
HI = GenerateRequest(prompt="hi")
# A runner as small as the protocol allows: it starts in a few hundredths of a second.
TINY = """
import json, os, socket, sys
os.read(0, 1 << 16)
listener = socket.socket(fileno=int(sys.argv[1]))
status = json.dumps({"engine": "tiny", "state": "ready"})
done = json.dumps({"type": "text", "text": "hi"}) + "\\n" + json.dumps({"type": "done"}) + "\\n"
while True:
    caller = listener.accept()[0]
    asked = b""
    while b"\\r\\n\\r\\n" not in asked:
        asked += caller.recv(65536)
    head, _, rest = asked.partition(b"\\r\\n\\r\\n")
    length = next((int(l.split(b":")[1]) for l in head.lower().split(b"\\r\\n") if l.startswith(b"content-length")), 0)
    while len(rest) < length:
        rest += caller.recv(65536)
    body = (done if b"/generate" in head else status).encode()
    caller.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    caller.close()
    if b"/shutdown" in head:
        break
"""


async def cycle(pool: Pool, name: str, command: RunnerCommand) -> None:
    async for _ in pool.generate(toy_spec(name, command=command), HI, CALLER):
        pass
    assert await pool.unload(name)


async def test_nine_hundred_loads_of_objects_keep_no_memory() -> None:
    settings = Settings.model_validate({"memory": {"limit": 100}})
    clock = HandClock()
    factory = ToyRunnerFactory(clock)
    pool = Pool(settings, clock=clock, factory=factory)
    await pool.start()

    async def cycles(count: int) -> int:
        for number in range(count):
            await cycle(pool, f"model-{number % 7}", RunnerCommand(argv=("/nonexistent",)))
        factory.made.clear()
        await clock.advance(1000)  # past the timers that were cancelled
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await cycles(100)
        after = await cycles(800)
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
    assert pool.runners() == []
    assert not factory.running
    await pool.close(0)


@pytest.mark.e2e
async def test_a_hundred_loads_of_processes_leave_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "s"
    settings = Settings.model_validate({"storage": {"state": str(state)}, "memory": {"limit": "1GiB"}})
    pool = Pool(settings)
    await pool.start()
    command = RunnerCommand(argv=(sys.executable, "-I", "-S", "-c", TINY, "{fd}"))

    def holdings() -> tuple[int, int, int, int]:
        children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        return len(os.listdir("/dev/fd")), threading.active_count(), len(asyncio.all_tasks()), len(children)  # noqa: PTH208

    await cycle(pool, "first", command)
    before = holdings()
    for number in range(100):
        await cycle(pool, f"model-{number % 3}", command)
    after = holdings()
    # The thread that reaped the last child may still be on its way out.
    assert all(now <= then + 2 for now, then in zip(after, before, strict=True)), (before, after)
    assert not list((state / "runners").iterdir())
    assert not [*tmp_path.rglob("*.sock")]
    await pool.close(0)
