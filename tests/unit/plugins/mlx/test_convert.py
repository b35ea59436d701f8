"""A folder of safetensors becomes an MLX folder, quantised as asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.types import PullProgress
from ollmlx_mlx.importer.convert import MODES, convert_folder, quantization
from ollmlx_mlx.importer.gguf_import import import_gguf

pytestmark = pytest.mark.mlx
WriteGguf = Callable[..., Path]


@pytest.fixture
def source(write_gguf: WriteGguf, tmp_path: Path) -> Path:
    """A tiny float model as a hub has it, with files beside it that do and do not belong to it."""
    folder = tmp_path / "source"
    folder.mkdir()
    import_gguf(write_gguf("qwen3", kind="F16"), folder, lambda _: None)
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    return folder


def converted(source: Path, into: Path, quantize: str | None) -> tuple[dict[str, Any], list[PullProgress]]:
    into.mkdir()
    steps: list[PullProgress] = []
    convert_folder(source, into, quantize, steps.append)
    return json.loads((into / "config.json").read_text(encoding="utf-8")), steps


def logits(folder: Path) -> np.ndarray:
    model, _ = load_model(folder)
    return np.array(model(mx.array([[5, 77, 301, 12]])).astype(mx.float32))


@pytest.mark.parametrize("mode", ["int8", "int4", "mxfp4", "q8_0"])
def test_weights_are_quantised_and_everything_else_comes_along(mode: str, source: Path, tmp_path: Path) -> None:
    config, steps = converted(source, tmp_path / "out", mode)
    group, bits, kind = quantization(mode)
    assert config["quantization"] == {"group_size": group, "bits": bits, "mode": kind}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "config.json"} <= names
    assert not names & {"pytorch_model.bin", "evil.py"}
    assert steps[-1].completed == steps[-1].total
    tolerance = 0.05 if bits == 8 else 0.8
    assert (logits(tmp_path / "out") - logits(source)).std() < tolerance * logits(source).std()


def test_without_a_wish_the_weights_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    config, _ = converted(source, tmp_path / "out", None)
    assert "quantization" not in config
    np.testing.assert_array_equal(logits(tmp_path / "out"), logits(source))


def test_what_is_quantised_already_is_not_quantised_again(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "once", "int8")
    with pytest.raises(InvalidRequest, match="only supported for F16, BF16 and F32"):
        converted(tmp_path / "once", tmp_path / "twice", "int4")


def test_a_model_that_wants_its_own_code_is_refused_before_anything_is_loaded(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps({**content, "model_file": "evil.py"}), encoding="utf-8")
    with pytest.raises(StorageError, match="model_file"):
        converted(source, tmp_path / "out", "int8")


def test_a_folder_without_usable_weights_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="source has no model"):
        converted(source, tmp_path / "out", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("int4", "int4"), ("INT8", "int8"), ("q4_K_M", "int4"), ("q8_0", "int8"), ("q4", "int4"), ("mxfp4", "mxfp4")],
)
def test_names_of_quantisations_are_mlxs_or_ggufs(name: str, expected: str) -> None:
    assert quantization(name) == MODES[expected]


@pytest.mark.parametrize("name", ["", "int7", "q7", "fp16", "q4_k_m_x", "../int4"])
def test_other_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        quantization(name)
    assert "int4" in (refused.value.hint or "")
