"""The compute thread: calls in their order, and memory that is given back when no work comes."""

from __future__ import annotations

import functools
import threading

import pytest

from ollmlx_mlx.engine.batching.compute import ComputeThread

pytestmark = pytest.mark.mlx


def test_a_thread_without_work_tidies_up_once_after_each_time_that_it_worked() -> None:
    tidied, times = threading.Semaphore(0), []

    def tidy() -> None:
        times.append(threading.current_thread().name)
        tidied.release()

    compute = ComputeThread(tidy=tidy, idle=0.01)
    try:
        for number in range(2):
            assert compute.call(functools.partial(int, number)).result(30) == number
            assert tidied.acquire(timeout=30)
    finally:
        compute.close(30)
    assert times == ["compute", "compute"]


def test_a_thread_that_cannot_tidy_up_still_works() -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise MemoryError

    compute = ComputeThread(tidy=fail, idle=0.01)
    try:
        compute.call(lambda: None).result(30)
        assert tried.wait(30)
        assert compute.call(lambda: "works").result(30) == "works"
    finally:
        compute.close(30)
