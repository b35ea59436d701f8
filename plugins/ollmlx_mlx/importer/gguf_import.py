"""Makes an MLX folder from a GGUF file: config.json, tokenizer and safetensors shards. In a child process only."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from ollmlx import GgufHeader, GgufTensor, read_gguf_header
from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.storekit import check_space
from ollmlx.types import PullProgress
from ollmlx_mlx.importer.convert import Report, convert_folder, quantization
from ollmlx_mlx.importer.gguf_config import (
    FREQUENCIES,
    check_architecture,
    check_tensors,
    model_config,
    parameter_name,
    permuted_heads,
)
from ollmlx_mlx.importer.gguf_tokenizer import ImportedTokenizer, read_tokenizer
from ollmlx_mlx.importer.gguf_weights import GROUP, ImportedTensor, TensorFile, read_tensor

SHARD: Final = 2 * 1024**3
"""Bytes after which a new file of weights is started. Limits the memory that an import takes."""


def import_gguf(source: Path, into: Path, report: Report, *, quantize: str | None = None) -> None:
    """Write the model in `source` to the folder `into`, quantised if asked (from float weights only).

    Raises StorageError when the file is damaged or cannot be expressed, InvalidRequest for an impossible quantisation.
    """
    report(PullProgress(status="parsing GGUF"))
    header = read_gguf_header(source, here=True)
    check_architecture(header)
    if quantize is None:
        _import(header, source, into, report)
        return
    quantization(quantize)
    if any(tensor.kind not in ("F32", "F16", "BF16") for tensor in header.tensors):
        raise InvalidRequest("quantization is only supported for F16, BF16 and F32 models")
    with tempfile.TemporaryDirectory(dir=into, prefix=".plain-") as plain:
        _import(header, source, Path(plain), report)
        convert_folder(Path(plain), into, quantize, report)


def _import(header: GgufHeader, source: Path, into: Path, report: Report) -> None:
    data = TensorFile(source)
    tokenizer = read_tokenizer(header.metadata)
    config = model_config(header, vocabulary=_vocabulary(header, tokenizer), frequencies=_frequencies(header, data))
    check_tensors(header, config)
    config["eos_token_id"] = list(tokenizer.eos)
    if tokenizer.bos is not None:
        config["bos_token_id"] = tokenizer.bos
    config |= _write_weights(header, data, into, report)
    _write_json(into / "config.json", dict(sorted(config.items())))
    _write_json(into / "generation_config.json", {"eos_token_id": list(tokenizer.eos)})
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    _write_json(into / "tokenizer_config.json", tokenizer.config)


def _vocabulary(header: GgufHeader, tokenizer: ImportedTokenizer) -> int:
    rows = next((tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight"), 0)
    if rows < tokenizer.size:
        raise StorageError(f"it has {tokenizer.size} tokens but embeddings for {rows}", code="MDL003")
    return rows


def _frequencies(header: GgufHeader, data: TensorFile) -> list[float] | None:
    for tensor in header.tensors:
        if tensor.name == FREQUENCIES:
            values: Any = read_tensor(tensor, data).arrays["weight"].astype(mx.float32).tolist()
            return [float(value) for value in values]
    return None


def _write_weights(header: GgufHeader, data: TensorFile, into: Path, report: Report) -> dict[str, Any]:
    """Write the shards. Returns the `quantization` part of the configuration."""
    tensors = [tensor for tensor in header.tensors if tensor.name != FREQUENCIES]
    total = sum(tensor.nbytes for tensor in tensors)
    check_space(into, total)
    dtype = _float_type(tensors)
    shard: dict[str, mx.array] = {}
    files: list[Path] = []
    bits: dict[str, int] = {}
    done = 0
    for tensor in tensors:
        imported = read_tensor(tensor, data, heads=permuted_heads(header, tensor.name))
        shard |= _named(tensor, imported, dtype)
        if imported.bits is not None:
            module, _ = parameter_name(tensor.name) or ("", "")
            bits[module] = imported.bits
        done += tensor.nbytes
        report(PullProgress(status="importing weights", total=total, completed=done))
        if done == total or sum(array.nbytes for array in shard.values()) > SHARD:
            files.append(into / f"model-{len(files) + 1:05d}.safetensors")
            mx.save_safetensors(str(files[-1]), shard, metadata={"format": "mlx"})
            shard = {}
    _rename(files)
    return _quantization(bits)


def _named(tensor: GgufTensor, imported: ImportedTensor, dtype: mx.Dtype) -> dict[str, mx.array]:
    module, parameter = parameter_name(tensor.name) or ("", "")
    if imported.bits is None:
        return {f"{module}.{parameter}": imported.arrays["weight"].astype(dtype)}
    if parameter != "weight":
        raise StorageError(f"tensor {tensor.name[:80]!r} is quantised, which MLX does not support")
    return {f"{module}.{suffix}": array for suffix, array in imported.arrays.items()}


def _float_type(tensors: list[GgufTensor]) -> mx.Dtype:
    """Return the type of all weights that are not quantised. With several types MLX would compute in the widest."""
    matrices = {tensor.kind for tensor in tensors if len(tensor.shape) > 1}
    if matrices == {"F32"}:
        return mx.float32
    return mx.bfloat16 if matrices <= {"BF16", "F32"} else mx.float16


def _quantization(bits: dict[str, int]) -> dict[str, Any]:
    if not bits:
        return {}
    usual, _ = Counter(bits.values()).most_common(1)[0]
    unusual = {module: _affine(width) for module, width in bits.items() if width != usual}
    quantization = {**_affine(usual), **unusual}
    return {"quantization": quantization, "quantization_config": quantization}


def _affine(bits: int) -> dict[str, Any]:
    return {"group_size": GROUP, "bits": bits, "mode": "affine"}


def _rename(files: list[Path]) -> None:
    """Give the files their final names, which contain the number of files."""
    for index, path in enumerate(files):
        name = "model" if len(files) == 1 else f"model-{index + 1:05d}-of-{len(files):05d}"
        path.rename(path.with_name(f"{name}.safetensors"))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
