"""GGUF files and folders of safetensors become MLX folders that compute the same, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from tests.unit.plugins.mlx.conftest import WriteGguf, run_importer

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.formats.gguf import read_gguf_header
from ollmlx.types import PullProgress
from ollmlx_mlx.importer.__main__ import main
from ollmlx_mlx.importer.convert import MODES, convert_folder, quantization
from ollmlx_mlx.importer.gguf_config import LLAMA3_ROPE, llama3_factors
from ollmlx_mlx.importer.gguf_import import import_gguf

pytestmark = pytest.mark.mlx


def imported(file: Path, into: Path, **options: Any) -> dict[str, Any]:
    into.mkdir()
    import_gguf(file, into, lambda _: None, **options)
    config: dict[str, Any] = json.loads((into / "config.json").read_text(encoding="utf-8"))
    return config


def logits(folder: Path) -> np.ndarray:
    model, _ = load_model(folder)
    return np.array(model(mx.array([[5, 77, 301, 12]])).astype(mx.float32))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_float_and_an_8_bit_file_of_one_model_compute_alike(
    architecture: str, write_gguf: WriteGguf, tmp_path: Path
) -> None:
    config = imported(write_gguf(architecture, kind="F32"), tmp_path / "plain")
    packed = imported(write_gguf(architecture, kind="Q8_0"), tmp_path / "packed")
    assert config["model_type"] == packed["model_type"] == architecture
    assert "quantization" not in config
    assert packed["quantization"]["bits"] == 8
    expected = logits(tmp_path / "plain")
    assert (logits(tmp_path / "packed") - expected).std() < 0.05 * expected.std()


def test_bit_widths_may_be_mixed_and_an_untied_head_is_found(write_gguf: WriteGguf, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = {"output.weight": rng.standard_normal((900, 64)).astype(np.float16)}
    config = imported(write_gguf("llama", kind="Q4_0", tensors=head), tmp_path / "mixed")
    assert config["tie_word_embeddings"] is False
    assert config["quantization"]["bits"] == 4
    assert np.isfinite(logits(tmp_path / "mixed")).all()


def test_weights_are_split_into_files_of_bounded_size(
    write_gguf: WriteGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollmlx_mlx.importer.gguf_import.SHARD", 60_000)
    imported(write_gguf("llama"), tmp_path / "many")
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert np.isfinite(logits(tmp_path / "many")).all()


def test_llama_3_rotary_scaling_is_recognised_from_its_factors(write_gguf: WriteGguf, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, **LLAMA3_ROPE}
    factors = np.array(llama3_factors(16, 10000.0, scaling), dtype=np.float32)
    config = imported(write_gguf("llama", tensors={"rope_freqs.weight": factors}), tmp_path / "scaled")
    assert config["rope_scaling"] == scaling
    odd = np.linspace(1, 5, 8, dtype=np.float32)
    with pytest.raises(StorageError, match="frequencies"):
        imported(write_gguf("llama", tensors={"rope_freqs.weight": odd}), tmp_path / "odd")


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("gemma3", {}, "'gemma3'"),
        ("mamba", {}, "'mamba'"),
        ("llama", {"metadata": {"llama.expert_count": 8}}, "experts"),
        ("llama", {"metadata": {"llama.attention.value_length": 8}}, "different lengths"),
        ("llama", {"metadata": {"llama.rope.scaling.type": "longrope"}}, "'longrope'"),
        ("llama", {"metadata": {"llama.block_count": 0}}, "block_count"),
        ("llama", {"metadata": {"llama.block_count": 100_000_000}}, "layers"),
        ("llama", {"metadata": {"llama.feed_forward_length": 95}}, "shape"),
        ("llama", {"metadata": {"llama.embedding_length": None}}, "embedding_length"),
        ("llama", {"metadata": {"llama.rope.freq_base": -1.0}}, "freq_base"),
        ("llama", {"tensors": {"blk.1.ffn_up.weight": None}}, "missing"),
        ("llama", {"tensors": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "attn_sinks"),
        ("llama", {"tensors": {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}}, "q_norm"),
        ("llama", {"metadata": {"tokenizer.ggml.pre": "unheard-of"}}, "unheard-of"),
        ("llama", {"tensors": {"token_embd.weight": np.ones((10, 64), np.float32)}}, "tokens"),
    ],
)
def test_what_mlx_cannot_express_is_refused_with_the_reason(
    architecture: str, changes: dict[str, Any], words: str, write_gguf: WriteGguf, tmp_path: Path
) -> None:
    with pytest.raises(StorageError) as refused:
        imported(write_gguf(architecture, **changes), tmp_path / "out")
    assert words in refused.value.message


def test_float_weights_are_quantised_on_the_way_when_asked(write_gguf: WriteGguf, tmp_path: Path) -> None:
    config = imported(write_gguf("llama", kind="F16"), tmp_path / "int8", quantize="int8")
    assert config["quantization"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    names = {path.name for path in (tmp_path / "int8").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= names
    assert not any(name.startswith(".plain") for name in names)
    with pytest.raises(InvalidRequest, match="only supported for F16"):
        imported(write_gguf("llama", kind="Q4_0"), tmp_path / "again", quantize="int4")
    with pytest.raises(InvalidRequest, match="unsupported quantization"):
        imported(write_gguf("llama", kind="F16"), tmp_path / "odd", quantize="q9_z")


def test_the_program_reports_progress_in_lines(write_gguf: WriteGguf, tmp_path: Path) -> None:
    done = run_importer(write_gguf(), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    steps = [PullProgress.model_validate_json(line) for line in done.stdout.splitlines()]
    assert steps[0].status == "parsing GGUF"
    assert steps[-1].completed == steps[-1].total == sum(t.nbytes for t in read_gguf_header(write_gguf()).tensors)


def test_the_program_explains_a_bad_file_and_ends_with_65(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 60)
    assert main(["--source", str(bad), "--into", str(tmp_path / "out")]) == 65
    said = capsys.readouterr().err
    assert "bad.gguf is not a usable GGUF file" in said
    assert str(tmp_path) not in said
    assert main(["--source", str(tmp_path / "none.gguf"), "--into", str(tmp_path / "out")]) == 65


@pytest.mark.parametrize("options", ["[", "[]", "3"])
def test_the_program_refuses_options_that_are_no_object(options: str, tmp_path: Path) -> None:
    assert main(["--source", "x", "--into", str(tmp_path), "--options", options]) == 64


def test_a_full_disk_is_reported_before_the_import_and_while_it_writes(
    write_gguf: WriteGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as nothing_left:
        nothing_left.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
        assert main(["--source", str(write_gguf()), "--into", str(tmp_path / "out")]) == 1
    assert "not enough disk space" in capsys.readouterr().err
    small_files = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    small_files += "; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    done = run_importer(write_gguf(), tmp_path / "out", small_files)
    assert done.returncode == 1
    assert "the weights could not be written; is the disk full?" in done.stderr
    assert "Traceback" not in done.stderr


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


def test_a_model_with_code_of_its_own_or_without_weights_is_refused(source: Path, tmp_path: Path) -> None:
    content = (source / "config.json").read_text(encoding="utf-8")
    (source / "config.json").write_text(json.dumps({**json.loads(content), "model_file": "evil.py"}), encoding="utf-8")
    with pytest.raises(StorageError, match="model_file"):
        converted(source, tmp_path / "out", "int8")
    (source / "config.json").write_text(content, encoding="utf-8")
    (source / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="source has no model"):
        converted(source, tmp_path / "none", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("int4", "int4"), ("INT8", "int8"), ("q4_K_M", "int4"), ("q8_0", "int8"), ("q4", "int4"), ("mxfp4", "mxfp4")]
    + [(name, None) for name in ("", "int7", "q7", "fp16", "q4_k_m_x", "../int4")],
)
def test_names_of_quantisations_are_mlxs_or_ggufs_and_others_are_refused(name: str, expected: str | None) -> None:
    if expected is not None:
        assert quantization(name) == MODES[expected]
        return
    with pytest.raises(InvalidRequest) as refused:
        quantization(name)
    assert "int4" in (refused.value.hint or "")
