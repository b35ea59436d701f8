"""Prefill slices take about the same time on any device."""

from __future__ import annotations

import pytest

from ollmlx_mlx.engine.batching.prefill import ChunkClock


@pytest.mark.parametrize("speed", [30, 150, 1000, 6000, 100_000])
def test_the_size_settles_where_a_chunk_takes_about_the_slice(speed: int) -> None:
    clock = ChunkClock(start=64, seconds=0.25)
    for _ in range(60):
        size = clock.size()
        clock.learn(size, size / speed)
    assert clock.size() <= max(16, speed * 0.25 * 1.01)
    assert clock.size() >= min(2048, speed * 0.25 * 0.6) or clock.size() == 16


def test_a_fast_first_chunk_does_not_leap_past_the_slice() -> None:
    clock = ChunkClock(start=64, seconds=0.25)
    clock.learn(64, 0.0001)
    assert clock.size() <= 64 * 4


def test_a_tiny_chunk_says_little_about_speed() -> None:
    clock = ChunkClock(start=512, seconds=0.25)
    clock.learn(1, 0.2)
    assert clock.size() >= 384
