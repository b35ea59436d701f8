"""When work is divided between two CPU products."""

from __future__ import annotations

from threading import Thread

import mlx.core as mx
import pytest

from ollmlx_mlx.linux_cpu import products

pytestmark = pytest.mark.mlx
WEIGHTS = 512 * 512


@pytest.mark.usefixtures("two_streams")
def test_a_thread_without_a_second_stream_computes_everything_on_its_own() -> None:
    found: list[bool] = []
    thread = Thread(target=lambda: found.append(products.divides(10**12)))
    thread.start()
    thread.join()
    assert found == [False]
    assert products.divides(10**12)


@pytest.mark.usefixtures("second_stream")
def test_the_two_halves_are_computed_on_two_streams() -> None:
    used: list[str] = []

    def half() -> mx.array:
        used.append(str(mx.default_stream(mx.Device(mx.DeviceType.cpu))))
        return mx.ones(2)

    assert [part.tolist() for part in products.side_by_side(half, half)] == [[1, 1], [1, 1]]
    assert len(set(used)) == 2


@pytest.mark.usefixtures("second_stream")
def test_what_is_quickly_done_is_not_divided() -> None:
    assert not products.divides(products.effort(1, WEIGHTS))
    assert products.divides(products.effort(512, WEIGHTS))
