"""From tensors of a GGUF file to MLX arrays: quantised blocks keep their codes wherever MLX can hold them exactly.

Runs in a child process only: it imports numpy, gguf and mlx.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import gguf.quants
import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ollmlx import GGUF_BLOCKS, GgufTensor
from ollmlx.errors import StorageError

GROUP: Final = 32
_PIECE: Final = 16 << 20
"""Bytes that are unpacked at once: the unpacked form is several times larger."""
REQUANTISED: Final = {"Q2_K": 4, "Q3_K": 5, "Q6_K": 8, "IQ4_NL": 6, "IQ4_XS": 6}
"""Types with other groups than MLX: they are quantised again with this many bits (finer than the original)."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Codes = tuple[Bytes, Floats, Floats]
"""Codes, scales and biases, the last two one for each GROUP of codes: `value = code * scale + bias`."""


@dataclass(frozen=True, slots=True)
class ImportedTensor:
    """A tensor as MLX keeps it: `arrays` by suffix (`weight`, `scales`, `biases`); `bits` None when not quantised."""

    arrays: dict[str, mx.array]
    bits: int | None = None


class TensorFile:
    """The bytes of a file by their position. A slice is read, not mapped: somebody may shorten the file meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, part: slice) -> Bytes:
        with self._path.open("rb") as file:
            found = np.fromfile(file, dtype=np.uint8, count=part.stop - part.start, offset=part.start)
        if len(found) < part.stop - part.start:
            raise StorageError(f"{self._path.name} was cut short while it was read", code="MDL003")
        return found


def read_tensor(info: GgufTensor, data: Bytes | TensorFile, *, heads: int | None = None) -> ImportedTensor:
    """Read one tensor. `data` is the whole file as bytes; with `heads`, rotary rows get their original order.

    Raises StorageError for a type that cannot be read.
    """
    if info.kind not in GGUF_BLOCKS:
        raise StorageError(f"tensor {info.name} has {info.kind}, which cannot be imported")
    raw = data[info.offset : info.offset + info.nbytes]
    if info.kind in ("F32", "F16", "BF16"):
        values = _floats(info, raw)
        return ImportedTensor({"weight": _unpermuted(values, heads) if heads else values})
    rows = raw.reshape(int(np.prod(info.shape[:-1])), -1)
    step = max(1, _PIECE // rows.shape[1])
    pieces = [_quantised(info.kind, rows[at : at + step]) for at in range(0, len(rows), step)]
    arrays = {key: mx.concatenate([arrays[key] for arrays in pieces]) for key in ("weight", "scales", "biases")}
    if heads:
        arrays = {key: _unpermuted(array, heads) for key, array in arrays.items()}
    mx.eval(arrays)
    return ImportedTensor(arrays, REQUANTISED.get(info.kind) or _EXACT[info.kind][0])


def _floats(info: GgufTensor, raw: Bytes) -> mx.array:
    if info.kind == "BF16":
        return mx.array(raw.view(np.uint16).reshape(info.shape)).view(mx.bfloat16)
    return mx.array(raw.view(np.float32 if info.kind == "F32" else np.float16).reshape(info.shape))


def _quantised(kind: str, rows: Bytes) -> dict[str, mx.array]:
    number, _, size = GGUF_BLOCKS[kind]
    if kind in REQUANTISED:
        values = mx.array(np.asarray(gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(number)), np.float32))
        weight, scales, biases = mx.quantize(values, group_size=GROUP, bits=REQUANTISED[kind])
    else:
        bits, unpack = _EXACT[kind]
        count = len(rows)
        codes, *others = unpack(rows.reshape(count, -1, size))
        weight = mx.array(_words(codes.reshape(count, -1), bits))
        scales, biases = (mx.array(other.reshape(count, -1)) for other in others)
    return {"weight": weight, "scales": scales.astype(mx.float16), "biases": biases.astype(mx.float16)}


def _words(codes: Bytes, bits: int) -> NDArray[np.uint32]:
    """Pack codes as MLX does: a little-endian stream of `bits` bits each."""
    if bits == 8:
        stream = codes
    elif bits == 4:
        stream = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    else:
        single = (codes[..., None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
        stream = np.packbits(single.reshape(len(codes), -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(stream).view(np.uint32)


def _unpermuted(array: mx.array, heads: int) -> mx.array:
    rows = array.shape[0]
    if rows % (2 * heads):
        raise StorageError(f"{rows} attention rows cannot be split into {heads} heads")
    return mx.contiguous(array.reshape(heads, rows // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2)).reshape(
        array.shape
    )


def _half(blocks: Bytes, at: int) -> Floats:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(blocks: Bytes) -> Bytes:
    return np.concatenate([blocks & np.uint8(15), blocks >> np.uint8(4)], axis=-1)


def _fifth_bits(blocks: Bytes) -> Bytes:
    return np.unpackbits(np.ascontiguousarray(blocks), axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Codes:
    scales = _half(blocks, 0)
    return _nibbles(blocks[..., 2:]), scales, -8 * scales


def _q4_1(blocks: Bytes) -> Codes:
    return _nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Codes:
    scales = _half(blocks, 0)
    return _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), scales, -16 * scales


def _q5_1(blocks: Bytes) -> Codes:
    return _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Codes:
    scales = _half(blocks, 0)
    return blocks[..., 2:] ^ np.uint8(128), scales, -128 * scales


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    rows, count, _ = blocks.shape
    scales, minima = gguf.quants.Q4_K.get_scale_min(np.ascontiguousarray(blocks[..., 4:16]).reshape(-1, 12))
    shape = (rows, count, 8)
    factors: Any = _half(blocks, 0)[..., None] * scales.reshape(shape)
    offsets: Any = -_half(blocks, 2)[..., None] * minima.reshape(shape)
    return factors.astype(np.float32), offsets.astype(np.float32)


def _k_nibbles(blocks: Bytes) -> Bytes:
    rows, count, _ = blocks.shape
    return _nibbles(blocks.reshape(rows, count, 4, 32)).reshape(rows, count, 8, 32)


def _q4_k(blocks: Bytes) -> Codes:
    return _k_nibbles(blocks[..., 16:]), *_k_scales(blocks)


def _q5_k(blocks: Bytes) -> Codes:
    high = (blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    return _k_nibbles(blocks[..., 48:]) | (high << np.uint8(4)), *_k_scales(blocks)


_EXACT: Final[dict[str, tuple[int, Callable[[Bytes], Codes]]]] = {
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
    "Q5_0": (5, _q5_0),
    "Q5_1": (5, _q5_1),
    "Q8_0": (8, _q8_0),
    "Q4_K": (4, _q4_k),
    "Q5_K": (5, _q5_k),
}
"""Types whose codes MLX can hold: their bits, and the function that unpacks blocks [rows, blocks, bytes]."""
