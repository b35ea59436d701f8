"""Around llama.cpp in the runner: batches, reasons, what killed runners leave."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

native = pytest.importorskip("ollmlx_llamacpp.native", reason="pip install 'ollmlx[llamacpp]'", exc_type=ImportError)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "device", "stated", "expected"),
    [
        (98 * MIB, "cpu", 0, 64),
        (1, "cpu", 0, 256),
        (5000 * MIB, "cpu", 0, 16),
        (5000 * MIB, "cuda", 0, 512),
        (5000 * MIB, "metal", 2048, 2048),
        (98 * MIB, "cpu", 100, 100),
    ],
)
def test_a_batch_of_a_prompt_takes_little_time(size: int, device: str, stated: int, expected: int) -> None:
    assert native.batch_for(size, device, stated) == expected


LOG = """0.00.014.829 I srv          init: loading model
0.00.015.249 E llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'x'
0.00.015.271 E llama_model_load_from_file_impl: failed to load model
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (LOG, "error loading model architecture: unknown model architecture: 'x'"),
        (
            f"0.00 E srv init: exiting due to model loading error\n{LOG}",
            "error loading model architecture: unknown model architecture: 'x'",
        ),
        ("0.00 E ggml_backend_alloc: failed to allocate buffer of size 10\n", "failed to allocate buffer of size 10"),
        ("0.00 E llama_model_load: error loading mod", "no reason given"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_the_first_error_of_the_log(log: str, reason: str) -> None:
    assert native.reason_in(log) == reason


def test_a_reason_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("", encoding="utf-8")
    assert native.awaited_reason(log, patience=0) == "no reason given"
    late = threading.Timer(0.05, log.write_text, [LOG])
    late.start()
    assert "unknown model architecture" in native.awaited_reason(log, patience=30)
    late.join()


def test_a_reason_has_its_kind() -> None:
    assert native.failure("x.gguf", "mad", "unknown model architecture: 'mad'").code == "MDL004"
    assert native.failure("x.gguf", "llama", "failed to allocate buffer").kind == "out_of_memory"
    assert native.failure("x.gguf", "llama", "missing tensor 'output_norm.weight'").code == "MDL003"


def test_sockets_of_runners_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = 2**22 - 3
    for name in (f"{native.PREFIX}{gone}-a", f"{native.PREFIX}{os.getpid()}-b", f"{native.PREFIX}x-c", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.sock").touch()
    native.sweep(tmp_path)
    assert {left.name for left in tmp_path.iterdir()} == {
        f"{native.PREFIX}{os.getpid()}-b",
        f"{native.PREFIX}x-c",
        "other",
    }
