"""The GGUF header reader checks every number of the file before it is used."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollmlx.errors import StorageError
from ollmlx.formats.gguf import GgufHeader, read_gguf_header
from ollmlx.formats.safetensors import SafetensorsTensor, read_safetensors_header, read_tensors
from ollmlx.testing.routes import installed

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


PAIRS = [
    pair(b"general.architecture", STRING, text(b"llama")),
    pair(b"llama.block_count", UINT32, struct.pack("<I", 2)),
    pair(b"llama.flag", BOOL, b"\x01"),
    pair(b"tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"a") + text("é".encode())),
    pair(b"scores", ARRAY, struct.pack("<IQ2f", FLOAT32, 2, 0.5, -1.0)),
]
TENSORS = [tensor(b"a.weight", (64, 2), 0, 0), tensor(b"b.weight", (32,), 8, 512)]


def gguf(
    pairs: list[bytes] = PAIRS,
    tensors: list[bytes] = TENSORS,
    data: int = 546,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    head = magic + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join([*pairs, *tensors])
    return head + b"\0" * (-len(head) % 32) + bytes(data)


def read(tmp_path: Path, content: bytes) -> GgufHeader:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    return read_gguf_header(file)


def test_metadata_and_places_of_tensors_are_read(tmp_path: Path) -> None:
    header = read(tmp_path, gguf())
    assert header.architecture == "llama"
    assert header.own("block_count") == 2
    assert header.own("nothing", 7) == 7
    assert header.metadata["tokens"] == ["a", "é"]
    assert header.metadata["scores"] == [0.5, -1.0]
    first, second = header.tensors
    assert (first.name, first.shape, first.kind, first.nbytes) == ("a.weight", (2, 64), "F32", 512)
    assert (second.shape, second.kind, second.nbytes) == ((32,), "Q8_0", 34)
    assert first.offset % 32 == 0
    assert second.offset == first.offset + 512


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"GGUF", "too short"),
        (gguf(magic=b"GGML"), "does not start with GGUF"),
        (gguf(version=1), "version is 1"),
        (gguf(version=3 << 24), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(64), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + bytes(64), "metadata keys"),
        (gguf(pairs=[pair(b"k", STRING, struct.pack("<Q", 2**63))]), "bytes of a text"),
        (gguf(pairs=[pair(b"k", ARRAY, struct.pack("<IQ", STRING, 2**40))]), "items of an array"),
        (gguf(pairs=[pair(b"k", ARRAY, struct.pack("<IQ", FLOAT32, 2**21))]), "cut short"),
        (gguf(pairs=[pair(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "unsupported type 9"),
        (gguf(pairs=[pair(b"k", 99, b"")]), "unknown type 99"),
        (gguf(pairs=[PAIRS[0], PAIRS[0]]), "twice"),
        (gguf(pairs=[pair(b"general.alignment", UINT32, struct.pack("<I", 0))]), "alignment"),
        (gguf(pairs=[pair(b"general.alignment", UINT32, struct.pack("<I", 24))]), "alignment"),
        (gguf(tensors=[tensor(b"t", (1,) * 5, 0, 0)]), "dimensions"),
        (gguf(tensors=[tensor(b"t", (0,), 0, 0)]), "impossible shape"),
        (gguf(tensors=[tensor(b"t", (33,), 8, 0)]), "impossible shape"),
        (gguf(tensors=[tensor(b"t", (2**40, 2**40), 0, 0)]), "beyond the end"),
        (gguf(tensors=[tensor(b"t", (1,), 0, 2**63)]), "beyond the end"),
        (gguf(tensors=[TENSORS[0], TENSORS[0]]), "twice"),
        (gguf(data=100), "beyond the end"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as refused:
        read(tmp_path, content)
    assert words in refused.value.message
    assert refused.value.message.startswith("m.gguf is not a usable GGUF file")


def test_a_tensor_of_an_unknown_type_leaves_the_others_readable(tmp_path: Path) -> None:
    header = read(tmp_path, gguf(tensors=[tensor(b"t", (256,), 29, 0)]))
    assert header.tensors[0].kind == "type 29"
    assert header.tensors[0].nbytes == 0


def test_long_arrays_can_be_passed_over(tmp_path: Path) -> None:
    whole = read(tmp_path, gguf())
    short = read_gguf_header(tmp_path / "m.gguf", longest=1)
    assert (short.metadata["tokens"], short.metadata["scores"]) == (None, None)
    assert short.metadata["llama.block_count"] == 2
    assert short.tensors == whole.tensors


def test_a_pipe_is_not_opened_and_a_missing_file_is_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="not a regular file"):
        read_gguf_header(pipe)
    with pytest.raises(StorageError, match=r"none\.gguf cannot be read: No such file"):
        read_gguf_header(tmp_path / "none.gguf")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 400),
    patch=st.binary(min_size=1, max_size=9),
    cut=st.integers(24, 1200),
    longest=st.sampled_from([0, 1 << 24]),
)
def test_any_damage_is_a_clean_refusal_or_a_sound_header(
    tmp_path: Path, at: int, patch: bytes, cut: int, longest: int
) -> None:
    content = bytearray(gguf())
    content[at : at + len(patch)] = patch
    file = tmp_path / "m.gguf"
    file.write_bytes(content[:cut])
    try:
        header = read_gguf_header(file, longest=longest)
    except StorageError:
        return
    for found in header.tensors:
        assert 0 <= found.offset <= found.offset + found.nbytes <= header.size


GOOD: dict[str, Any] = {
    "__metadata__": {"format": "mlx"},
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "U32", "shape": [1], "data_offsets": [12, 16]},
}


def file_of(
    tmp_path: Path, header: object, data: int = 16, length: int | None = None, name: str = "model.safetensors"
) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / name
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data))
    return file


def test_names_types_and_shapes_are_read(tmp_path: Path) -> None:
    found = read_safetensors_header(file_of(tmp_path, GOOD))
    assert found == {"a": SafetensorsTensor("F16", (2, 3), 12), "b": SafetensorsTensor("U32", (1,), 4)}
    assert found["a"].elements == 6


def test_a_model_has_the_tensors_of_every_file_in_its_folder(tmp_path: Path) -> None:
    file_of(tmp_path, {"a": GOOD["a"]}, data=12)
    file_of(tmp_path, {"c": GOOD["a"]}, data=12, name="second.safetensors")
    assert read_tensors(installed("m", format="mlx", path=tmp_path)) == [
        {"name": "a", "type": "F16", "shape": [2, 3]},
        {"name": "c", "type": "F16", "shape": [2, 3]},
    ]
    assert read_tensors(installed("m", path=tmp_path / "nowhere")) == []


def changed(**entry: Any) -> dict[str, Any]:
    return {**GOOD, "b": {**GOOD["b"], **entry}}


DAMAGED: list[tuple[object, dict[str, Any]]] = [
    (GOOD, {"data": 15}), (GOOD, {"data": 17}), (GOOD, {"length": 2**62}),
    (b"{", {}), (b"[" * 100_000, {}), (b"[]", {}), (b"\xff\xfe", {}), ({"x": 3}, {}),
    (changed(data_offsets=[8, 16]), {}), (changed(data_offsets=[16, 12]), {}), (changed(data_offsets=[-4, 16]), {}),
    (changed(data_offsets=[12, 2**70]), {}), (changed(data_offsets=["12", 16]), {}),
    (changed(shape=[-1]), {}), (changed(shape=[1] * 9), {}), (changed(dtype=3), {}),
]  # fmt: skip


@pytest.mark.fault(30)
@pytest.mark.parametrize(("header", "options"), DAMAGED)
def test_damage_is_refused_and_the_file_named(header: object, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StorageError) as refused:
        read_safetensors_header(file_of(tmp_path, header, **options))
    assert "model.safetensors is damaged" in refused.value.message
    assert str(tmp_path) not in refused.value.message


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(StorageError, match="not a regular file"):
        read_safetensors_header(tmp_path / "model.safetensors")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 220), patch=st.binary(min_size=1, max_size=6))
def test_any_damage_of_safetensors_is_a_clean_refusal_or_a_sound_header(tmp_path: Path, at: int, patch: bytes) -> None:
    file = file_of(tmp_path, GOOD)
    content = bytearray(file.read_bytes())
    content[at : at + len(patch)] = patch
    file.write_bytes(content)
    try:
        found = read_safetensors_header(file)
    except StorageError:
        return
    assert sum(tensor.nbytes for tensor in found.values()) <= len(content)


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"error": "Repository not found"}', "an error message of a server"),
        (b'  { "error" : "x" }          ', "an error message of a server"),
        (bytes(4096), "begins with zeros"),
        (b"", "it is empty"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "a GGUF file under another name"),
        (b"PK\x03\x04" + bytes(100), "PyTorch checkpoint"),
    ],
)
def test_a_file_that_holds_something_else_is_called_what_it_is(tmp_path: Path, content: bytes, meaning: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(StorageError, match=meaning):
        read_safetensors_header(file)
