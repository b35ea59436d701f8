"""The tensors of a model, from the headers of its files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ollmlx.formats.safetensors import read_tensors
from ollmlx.testing.routes import installed


def safetensors(path: Path, **shapes: list[int]) -> None:
    """A file of float32 zeros."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_every_shard_of_a_folder_is_told(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1.safetensors", a=[2, 3])
    safetensors(tmp_path / "model-2.safetensors", b=[4])
    assert read_tensors(installed("m", format="mlx", path=tmp_path)) == [
        {"name": "a", "type": "F32", "shape": [2, 3]},
        {"name": "b", "type": "F32", "shape": [4]},
    ]


def test_a_model_without_weights_has_none(tmp_path: Path) -> None:
    assert read_tensors(installed("m", path=tmp_path / "nowhere")) == []
