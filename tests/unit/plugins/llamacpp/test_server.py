"""llama.cpp's server in the runner: prompt batches, reasons of failed loads, sockets that killed runners left."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

server = pytest.importorskip("ollmlx_llamacpp.server", reason="pip install 'ollmlx[llamacpp]'", exc_type=ImportError)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "device", "expected"),
    [
        (98 * MIB, "cpu", 512),
        (150 * MIB, "cpu", 256),
        (1066 * MIB, "cpu", 64),
        (1, "cpu", 512),
        (5000 * MIB, "cpu", 16),
        (5000 * MIB, "cuda", 512),
    ],
)
def test_a_prompt_batch_takes_little_time(size: int, device: str, expected: int) -> None:
    assert server.prompt_batch(size, device) == expected


REASON = "error loading model architecture: unknown model architecture: 'x'"
LOG = f"""0.00.014.829 I srv          init: loading model
0.00.015.249 E llama_model_load: error loading model: {REASON}
0.00.015.271 E llama_model_load_from_file_impl: failed to load model
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (LOG, REASON),
        (f"0.00 E srv init: exiting due to model loading error\n{LOG}", REASON),
        ("0.00 E ggml_backend_alloc: failed to allocate buffer of size 10\n", "failed to allocate buffer of size 10"),
        ("0.00 E llama_model_load: error loading mod", "no reason given"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_the_first_error_of_the_log(log: str, reason: str) -> None:
    assert server.first_error(log) == reason


def test_a_reason_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("", encoding="utf-8")
    assert server.wait_for_reason(log, seconds=0) == "no reason given"
    late = threading.Timer(0.05, log.write_text, [LOG])
    late.start()
    assert "unknown model architecture" in server.wait_for_reason(log, seconds=30)
    late.join()


def test_a_failed_load_has_the_error_kind_of_its_reason() -> None:
    assert server.load_error("x.gguf", "mad", "unknown model architecture: 'mad'").code == "MDL004"
    assert server.load_error("x.gguf", "llama", "failed to allocate buffer").kind == "out_of_memory"
    assert server.load_error("x.gguf", "llama", "missing tensor 'output_norm.weight'").code == "MDL003"
