"""llama.cpp's threads spin where cores are free, and soon sleep where others compute."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from queue import Queue

import pytest

from ollmlx_llamacpp.spinning import SpinLimit, openmp_team, watch

PATIENCE = 30.0


@pytest.mark.parametrize(
    ("threads", "cores", "others", "limited"),
    [
        (2, 2, [0.1, 0.4], [False, False]),
        (2, 2, [2.0, 0.4, 0.2], [True, True, False]),
        (4, 8, [3.0, 4.6, 4.4, 4.0], [False, True, True, False]),
        (4, 2, [0.6], [True]),
    ],
    ids=["idle", "busy-for-a-while", "cores-to-spare", "more-threads-than-cores"],
)
def test_threads_sleep_while_others_use_their_cores(
    threads: int, cores: int, others: list[float], limited: list[bool]
) -> None:
    limit = SpinLimit(lambda count: None, threads, cores)
    found = []
    for used in others:
        limit.note(used)
        found.append(limit.limited)
    limit.end()
    assert found == limited


async def test_a_limit_is_told_what_others_use() -> None:
    told = asyncio.Event()

    class Told(SpinLimit):
        def note(self, others: float) -> None:
            assert abs(others) <= (os.cpu_count() or 1) + 1
            told.set()

    watching = asyncio.create_task(watch(Told(lambda count: None, 1, 1), seconds=0.2))
    await asyncio.wait_for(told.wait(), PATIENCE)
    watching.cancel()


def own_tasks() -> set[str]:
    """Return the ids of this process's threads, those of native code too."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def test_a_limit_holds_threads_of_libgomp_until_it_ends() -> None:
    module = pytest.importorskip("xllamacpp.xllamacpp", exc_type=ImportError)
    team = openmp_team(str(module.__file__))
    if team is None:
        pytest.skip("this llama.cpp is built without libgomp")
    holding: Queue[threading.Thread] = Queue()

    def counted(count: int) -> None:
        team(count)
        holding.put(threading.current_thread())

    before = own_tasks()
    limit = SpinLimit(counted, 2, 2)
    limit.note(2.0)
    holder = holding.get(timeout=PATIENCE)
    assert len(own_tasks() - before) >= 2
    limit.end()
    holder.join(PATIENCE)
    assert not holder.is_alive()
