"""The safetensors header reader: tensors of a file, of a whole model, and files that are damaged."""

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
from ollmlx.formats.safetensors import SafetensorsTensor, read_safetensors_header, read_tensors
from ollmlx.testing.routes import installed

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
def test_any_damage_is_a_clean_refusal_or_a_sound_header(tmp_path: Path, at: int, patch: bytes) -> None:
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
