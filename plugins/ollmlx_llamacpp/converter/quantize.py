"""Quantises a GGUF file, tensor by tensor, with the functions of llama.cpp that `llama-quantize` uses."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import gguf
import gguf.quants
import numpy as np
import xllamacpp.xllamacpp
from numpy.typing import NDArray

from ollmlx import GGUF_BLOCKS, GgufHeader, GgufTensor, read_gguf_header
from ollmlx.errors import InvalidRequest, StorageError, Unsupported
from ollmlx.storekit import check_space
from ollmlx_llamacpp.converter.mixture import FLOATS, Mixture, mixture_of
from ollmlx_llamacpp.converter.report import ConversionReport

PIECE: Final = 1 << 22
"""Values that are quantised at once by one thread."""
_OWN: Final = ("general.architecture", "general.file_type", "general.quantization_version")
_FILE_TYPES: Final = {"F16": "MOSTLY_F16", "F32": "ALL_F32"}

Values = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def quantize_file(source: Path, into: Path, name: str, report: ConversionReport) -> None:
    """Write the quantised model into a folder. Raises InvalidRequest, StorageError for a file that cannot be read."""
    mixture = mixture_of(name)
    header = read_gguf_header(source, here=True)
    before = _file_type(header)
    if before not in FLOATS:
        raise InvalidRequest(f"quantization is only supported for F16, BF16 and F32 models, and this one is {before}")
    unread = [tensor.kind for tensor in header.tensors if tensor.kind not in GGUF_BLOCKS]
    if unread:
        raise StorageError(f"it has tensors of the {unread[0]}, which cannot be read", code="MDL003")
    chosen = Mixture(mixture, header)
    kinds = {tensor.name: chosen.kind(tensor) for tensor in header.tensors}
    sizes = {tensor.name: _size(tensor, kinds[tensor.name]) for tensor in header.tensors}
    total = sum(sizes.values())
    check_space(into, total)
    writer = _writer(source, into / "model.gguf", header.architecture, mixture)
    for tensor in header.tensors:
        number = gguf.GGMLQuantizationType(GGUF_BLOCKS[kinds[tensor.name]][0])
        shape = _byte_shape(tensor.shape, kinds[tensor.name])
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), sizes[tensor.name], raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for tensor in header.tensors:
            report(f"quantizing {before} model to {mixture}", total, done)
            writer.write_tensor_data(_converted(source, tensor, kinds[tensor.name], threads))
            done += sizes[tensor.name]
    writer.close()
    report(f"quantizing {before} model to {mixture}", total, total)


def _writer(source: Path, target: Path, architecture: str, mixture: str) -> gguf.GGUFWriter:
    """Return a writer that has the metadata of the source."""
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in gguf.GGUFReader(source).fields.items():
        if name in _OWN or name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES.get(mixture, f"MOSTLY_{mixture}")])
    return writer


def _converted(source: Path, tensor: GgufTensor, kind: str, threads: ThreadPoolExecutor) -> Bytes:
    """Return the bytes of a tensor in another type."""
    if kind == tensor.kind:
        return _read(source, tensor.offset, tensor.nbytes).reshape(_byte_shape(tensor.shape, kind))
    rows = int(np.prod(tensor.shape[:-1]))
    step = max(1, PIECE // tensor.shape[-1])
    parts = [(start, min(step, rows - start)) for start in range(0, rows, step)]

    def convert(part: tuple[int, int]) -> Bytes:
        width = tensor.nbytes // rows
        raw = _read(source, tensor.offset + part[0] * width, part[1] * width)
        number = gguf.GGMLQuantizationType(GGUF_BLOCKS[tensor.kind][0])
        values = gguf.quants.dequantize(raw.reshape(part[1], width), number)
        return _quantized(np.ascontiguousarray(values, np.float32), kind)

    return np.concatenate(list(threads.map(convert, parts))).reshape(_byte_shape(tensor.shape, kind))


def _quantized(values: Values, kind: str) -> Bytes:
    """Quantise rows of numbers with llama.cpp's function."""
    if kind in FLOATS:
        return np.asarray(values, np.float16 if kind == "F16" else np.float32).view(np.uint8)
    number, block, size = GGUF_BLOCKS[kind]
    rows, columns = values.shape
    made = np.empty((rows, columns // block * size), np.uint8)
    _library().ggml_quantize_chunk(number, _pointer(values), _pointer(made), 0, rows, columns, None)
    return made


def _library() -> Any:
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    try:
        function = library.ggml_quantize_chunk
    except AttributeError:
        raise Unsupported(
            "this build of llama.cpp does not offer its quantiser", hint="pip install --upgrade xllamacpp"
        ) from None
    function.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return library


def _pointer(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


def _read(source: Path, start: int, count: int) -> Bytes:
    """Return bytes of the file. They are read, not mapped: somebody may shorten the file meanwhile."""
    found = np.fromfile(source, np.uint8, count, offset=start)
    if len(found) < count:
        raise StorageError("the file was cut short while it was read", code="MDL003")
    return found


def _size(tensor: GgufTensor, kind: str) -> int:
    return int(np.prod(_byte_shape(tensor.shape, kind)))


def _byte_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    _, block, size = GGUF_BLOCKS[kind]
    return (*shape[:-1], shape[-1] // block * size)


def _file_type(header: GgufHeader) -> str:
    """Return the name of `general.file_type` without its first word; where it is missing, the largest tensor's type."""
    number = header.metadata.get("general.file_type")
    if number is None:
        return max(header.tensors, key=lambda tensor: tensor.nbytes).kind
    try:
        return gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "of an unknown type"
