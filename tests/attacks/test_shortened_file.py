"""Attack: somebody shortens a model's file while it is read. A mapped file then kills the process (SIGBUS)."""

from __future__ import annotations

import ast
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.servers.ollama_folder import tiny_gguf

from ollmlx import read_gguf_header
from ollmlx.errors import StorageError
from ollmlx.formats import gguf
from ollmlx_mlx.importer.gguf_weights import TensorFile, read_tensor

ROOT = Path(__file__).parents[2]


def test_a_header_that_is_cut_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(tiny_gguf())
    status = file.stat()
    os.truncate(file, 200)
    monkeypatch.setattr(Path, "stat", lambda self, **more: status)  # the length that was found before
    with pytest.raises(StorageError, match="it was cut short while it was read"):
        gguf.read_gguf_header(file)


def test_weights_that_are_cut_while_they_are_imported_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(tiny_gguf(weights=4096))
    (tensor,) = read_gguf_header(file).tensors
    weights = TensorFile(file)
    assert np.array(read_tensor(tensor, weights).arrays["weight"]).shape == (1024,)
    os.truncate(file, tensor.offset + 100)
    with pytest.raises(StorageError, match="cut short while it was read"):
        read_tensor(tensor, weights)


def test_no_part_of_ollmlx_maps_a_file() -> None:
    found = []
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/ollmlx_*/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if "mmap" in names or (isinstance(node, ast.Attribute) and node.attr in ("memmap", "mmap")):
                found.append(str(path.relative_to(ROOT)))
    assert found == []


def test_a_length_beyond_the_end_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, 15 << 20)
    )
    with pytest.raises(StorageError, match="cut short or too large"):
        read_gguf_header(file)
