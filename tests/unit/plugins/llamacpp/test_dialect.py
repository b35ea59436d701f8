"""GGUF files in Ollama's own dialect: recognised by their headers, refused with the ways out, and written anew."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.servers.dialects import FAMILIES, write_ollamas, write_stock
from tests.servers.llava_gguf import write_llava
from tests.servers.ollama_folder import tiny_gguf

from ollmlx import DIALECT_KEY, ModelName, read_gguf_header
from ollmlx.errors import StorageError
from ollmlx.formats.gguf import GgufHeader, GgufTensor
from ollmlx.formats.ollama_gguf import ollama_dialect
from ollmlx.storekit import LONGEST_ARRAY, describe_gguf
from ollmlx.types import InstalledModel
from ollmlx_llamacpp import families
from ollmlx_llamacpp.backend import LlamaCppBackend, LlamaCppSettings

gguf = pytest.importorskip("gguf")
CONVERTER = [sys.executable, "-P", "-m", "ollmlx_llamacpp.converter", "--options", '{"dialect": "ollama"}']
DRY_LOAD = [sys.executable, "-P", "-m", "ollmlx_llamacpp.dry_load"]


def installed(name: str, path: Path) -> InstalledModel:
    return InstalledModel(
        **vars(describe_gguf(read_gguf_header(path, longest=LONGEST_ARRAY))),
        name=ModelName.parse(name),
        store="ollama",
        path=path,
        digest="0" * 64,
        size=path.stat().st_size,
        modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        source=f"ollama:{name}",
    )


def header(architecture: str, *tensors: str, **own: Any) -> GgufHeader:
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}
    return GgufHeader(3, metadata, tuple(GgufTensor(name, (1,), "F32", 0, 4) for name in tensors), 100)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (header("mllama"), "its architecture is called 'mllama'"),
        (header("llama4", "blk.0.attn_q.weight", "v.blk.0.attn_q.weight"), "its projector is inside the file"),
        (header("gemma4", "a.blk.0.attn_q.weight"), "its projector is inside the file"),
        (header("qwen35moe", "blk.0.ssm_dt"), "its tensors have other names"),
        (header("qwen35", "mtp.layers.0.attn_q.weight"), "its tensors have other names"),
        (header("mistral3", **{"rope.scaling_beta": 0.1}), "its metadata has other names"),
        (header("qwen3vl"), "metadata that llama.cpp needs is missing"),
        (header("laguna", "blk.0.attn_g.weight"), "its tensors have other names"),
    ],
)
def test_ollamas_dialect_is_recognised_by_the_header(read: GgufHeader, words: str) -> None:
    assert words in (ollama_dialect(read) or "")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_is_recognised_and_llama_cpps_own_files_are_not(tmp_path: Path, name: str) -> None:
    assert ollama_dialect(read_gguf_header(write_ollamas(tmp_path, FAMILIES[name])))
    for stock in filter(None, write_stock(tmp_path, FAMILIES[name])):
        assert ollama_dialect(read_gguf_header(stock)) is None


@pytest.mark.parametrize(
    "read",
    [header("llama"), header("qwen35", "blk.0.ssm_dt.bias"), header("clip", "v.blk.0.attn_q.weight"), header("")],
)
def test_other_files_are_not_taken_for_ollamas(read: GgufHeader) -> None:
    assert ollama_dialect(read) is None


@pytest.mark.parametrize(
    ("name", "family", "ways"),
    [
        (
            "gpt-oss:20b",
            "gptoss",
            [
                "weights for MLX: ollmlx pull mlx-community/gpt-oss-20b-MXFP4-Q8",
                "a stock GGUF file: ollmlx pull hf.co/ORG/NAME-GGUF (ggml-org, unsloth, on a CPU ollmlx pull --dry-run"
                " gpt-oss:20b names one)",
                "a converted copy: ollmlx create gpt-oss-converted:20b --from-ollama gpt-oss:20b",
            ],
        ),
        (
            "mine/seer",
            "gemma3",
            [
                "weights for MLX: ollmlx pull --dry-run mine/seer shows what the hub has",
                "a stock GGUF file: ollmlx pull hf.co/ORG/NAME-GGUF (ggml-org, unsloth)",
                "a converted copy: ollmlx create seer-converted:latest --from-ollama mine/seer",
            ],
        ),
    ],
)
def test_it_is_refused_before_loading_with_the_ways_out(
    tmp_path: Path, name: str, family: str, ways: list[str]
) -> None:
    backend = LlamaCppBackend(LlamaCppSettings(), installed=lambda: True)
    model = installed(name, write_ollamas(tmp_path, FAMILIES[family]))
    refusal = backend.accepts(model)
    assert refusal is not None
    assert "the file is in Ollama's own dialect of GGUF, which llama.cpp does not read: " in refusal.reason
    assert (refusal.hint or "").split("; ") == ways
    assert not backend.sees(model)


def test_no_copy_is_offered_of_a_family_that_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_gguf(architecture="mllama"))
    model = installed("llama3.2-vision", tmp_path / "m.gguf")
    refusal = LlamaCppBackend(LlamaCppSettings(), installed=lambda: True).accepts(model)
    assert refusal is not None
    assert "--from-ollama" not in (refusal.hint or "")


# -- converted copies ------------------------------------------------------------------------------------------------


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's metadata and its tensors, as llama.cpp's own library reads them."""
    reader = gguf.GGUFReader(path)
    metadata = {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in reader.fields.items()
        if not name.startswith(("GGUF.", "general.file_type"))
    }
    return metadata, {each.name: (each.tensor_type.name, np.array(each.data)) for each in reader.tensors}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_converted_copy_is_the_file_that_llama_cpps_converter_writes(tmp_path: Path, name: str) -> None:
    from ollmlx_llamacpp.converter.copy import convert

    family = FAMILIES[name]
    source = write_ollamas(tmp_path, family)
    before = source.read_bytes()
    model, projector = write_stock(tmp_path, family)
    into = tmp_path / "copy"
    into.mkdir()
    steps: list[tuple[str, int, int]] = []
    convert(source, into, lambda *step: steps.append(step))
    assert source.read_bytes() == before
    assert steps[-1][1] == steps[-1][2]
    for stock, copy in ((model, into / "model.gguf"), (projector, into / "mmproj.gguf")):
        if stock is None:
            assert not copy.exists()
            continue
        (expected, tensors), (metadata, copied) = contents(stock), contents(copy)
        unused = ("rope.mrope_section", "spatial_merge_size")
        added = {"tokenizer.ggml.pre", *(f"{family.architecture}.{key}" for key in unused)}
        assert {key: value for key, value in metadata.items() if key not in added} == expected
        assert copied.keys() == tensors.keys()
        for tensor, (kind, data) in tensors.items():
            assert copied[tensor][0] == kind
            assert np.array_equal(copied[tensor][1], data), tensor


@pytest.mark.parametrize("name", list(FAMILIES))
def test_llama_cpp_loads_every_converted_copy_and_not_the_file_itself(tmp_path: Path, name: str) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    source = write_ollamas(tmp_path, FAMILIES[name])
    done = subprocess.run([*CONVERTER, "--source", source, "--into", tmp_path], check=True, capture_output=True)
    assert b'"status":"converting model"' in done.stdout
    tried = subprocess.run([*DRY_LOAD, source, tmp_path / "model.gguf"], check=True, capture_output=True)
    first, second = tried.stdout.splitlines()
    assert b'"problem": null' not in first
    assert b'"problem": null' in second


def test_a_projector_that_does_not_say_its_type_is_recognised_and_gets_it(tmp_path: Path) -> None:
    from ollmlx_llamacpp.converter.copy import convert

    _, stock = write_llava(tmp_path)
    untyped = tmp_path / "untyped.gguf"
    untyped.write_bytes(stock.read_bytes().replace(b"clip.projector_type", b"clip.projector_kind"))
    model = describe_gguf(header("llama"), projectors=[read_gguf_header(untyped)])
    assert model.info[DIALECT_KEY] == "its projector does not say of which type it is"
    assert DIALECT_KEY not in describe_gguf(header("llama"), projectors=[read_gguf_header(stock)]).info
    convert(untyped, tmp_path, lambda *step: None)
    metadata, tensors = contents(tmp_path / "mmproj.gguf")
    expected, weights = contents(stock)
    assert {key: value for key, value in metadata.items() if key != "clip.projector_kind"} == expected
    assert all(np.array_equal(tensors[name][1], data) for name, (_, data) in weights.items())


def test_a_vocabulary_that_is_longer_than_the_embedding_is_cut_and_half_precision_is_promoted(tmp_path: Path) -> None:
    from ollmlx_llamacpp.converter.copy import convert

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    for key, number in {
        "embedding_length": 8,
        "block_count": 1,
        "vision.block_count": 1,
        "vision.patch_size": 2,
    }.items():
        writer.add_uint32(f"gemma3.{key}", number)
    for key in ("attention.head_count", "embedding_length", "feed_forward_length", "image_size"):
        writer.add_uint32(f"gemma3.vision.{key}", 8)
    writer.add_token_list([b"a", b"\xff\xfe", b"c"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.zeros((2, 8), np.float16))
    patches = np.arange(96, dtype=np.float16).reshape(8, 3, 2, 2)
    writer.add_tensor("v.patch_embedding.weight", patches)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(tmp_path / "m.gguf", tmp_path, lambda *step: None)
    made = read_gguf_header(tmp_path / "model.gguf")
    assert made.metadata["tokenizer.ggml.tokens"] == ["a", "\udcff\udcfe"]
    assert made.metadata["tokenizer.ggml.scores"] == [0.0, 1.0]
    assert [(tensor.name, tensor.kind) for tensor in made.tensors] == [("token_embd.weight", "F16")]
    kind, data = contents(tmp_path / "mmproj.gguf")[1]["v.patch_embd.weight"]
    assert kind == "F32"
    assert np.array_equal(data, patches.astype(np.float32))


def test_a_disk_without_space_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ollmlx_llamacpp.converter.copy import convert

    source = write_ollamas(tmp_path, FAMILIES["olmo3"])
    (tmp_path / "into").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(StorageError, match="not enough disk space"):
        convert(source, tmp_path / "into", lambda *step: None)
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data.replace(b"gptoss", b"gptosX"), "are not converted"),
        (lambda data: b"GGUF" + b"\xff" * 100, "not a usable GGUF file"),
        (lambda data: data.replace(b"blk.0.ffn_gate_exps.weight", b"blk.0.ffn_gate_expX.weight"), "header is not one"),
    ],
)
def test_a_file_that_cannot_be_converted_is_refused_in_a_sentence(tmp_path: Path, damage: Any, words: str) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(damage(write_ollamas(tmp_path, FAMILIES["gptoss"]).read_bytes()))
    (tmp_path / "into").mkdir()
    done = subprocess.run(
        [*CONVERTER, "--source", file, "--into", tmp_path / "into"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 65
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_of_the_converter_and_the_tests_name_the_same_families() -> None:
    assert families.FAMILIES.keys() == FAMILIES.keys()
