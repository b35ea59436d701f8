"""Headers of safetensors files, and the list of tensors of a model in either format. Bounded; reads no weights."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx.errors import StorageError
from ollmlx.formats.foreign import HEAD, foreign_content
from ollmlx.formats.gguf import read_gguf_header
from ollmlx.helper import run_limited

if TYPE_CHECKING:
    from ollmlx.types import InstalledModel

MAX_HEADER = 16 << 20
SMALL_HEADER = 256 << 10
"""Bytes of a header that is read without a helper process: some milliseconds of work."""
CPU_SECONDS = 5
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
DEFAULT_GROUP_SIZE = 64
FP_GROUPS = {2: 16, 4: 32, 8: 32}
"""Group sizes of the modes with scales of a byte (nvfp4, mxfp4, mxfp8) by their words for each scale."""
_COMPANIONS = ((".scale", ".scales"), (".bias", ".biases"), (".global_scale", ".global_scale"), ("", ".weight"))


@dataclass(frozen=True)
class SafetensorsTensor:
    """One tensor: element type as written in the file (`BF16`, `U32`), shape, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_safetensors_header(path: Path) -> dict[str, SafetensorsTensor]:
    """Return the tensors of a file by the names that MLX has for them.

    Raises StorageError with the reason: truncated, overlapping, not JSON.

    A large header is read in a helper process. Raises LimitExceeded if that reaches a limit.
    """
    rows = _rows(str(path), SMALL_HEADER)
    if rows is None:
        shown = f"{path.parent.name}/{path.name}"
        rows = run_limited(_rows, str(path), MAX_HEADER, what=shown, cpu=CPU_SECONDS, code="MDL003") or {}
    return {mlx_tensor_name(name, rows): SafetensorsTensor(*row) for name, row in rows.items()}


def mlx_tensor_name(name: str, names: Container[str]) -> str:
    """Return MLX's name for a tensor of a file: Ollama names the parts of quantised weights otherwise.

    `names`: all tensors of the file. `x.weight`, `x.weight.scale` and `x.weight.bias` are `x.weight`, `x.scales` and
    `x.biases`.
    """
    for suffix, mlx_suffix in _COMPANIONS:
        whole = name.removesuffix(suffix)
        if name.endswith(suffix) and whole in names and f"{whole}.scale" in names:
            return whole.removesuffix(".weight") + mlx_suffix
    return name


def _rows(file: str, limit: int) -> dict[str, tuple[str, tuple[int, ...], int]] | None:
    """Return type, shape and size of each tensor; None if the header is longer than `limit` bytes."""
    path = Path(file)
    shown = f"{path.parent.name}/{path.name}"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
            raise _damaged(shown, "it is not a regular file")
        size = found.st_size
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or not 0 < length <= min(MAX_HEADER, size - 8):
                opened.seek(0)
                problem = foreign_content(opened.read(HEAD), size)
                raise _damaged(shown, problem or "its header does not fit the file")
            if length > limit:
                return None
            raw = json.loads(opened.read(length))
    except OSError as error:
        raise StorageError(f"cannot read {shown}: {error.strerror}", code="MDL003") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(shown, "its header is not JSON") from error
    if not isinstance(raw, dict):
        raise _damaged(shown, "its header is not an object")
    raw.pop("__metadata__", None)
    if len(raw) > MAX_TENSORS:
        raise _damaged(shown, f"it has more than {MAX_TENSORS} tensors")
    return _tensors(shown, raw, size - 8 - length)


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `quantization` table of an MLX model's config.json; an empty one if the weights are not quantised."""
    for key in ("quantization", "quantization_config"):
        if isinstance(table := config.get(key), dict):
            return table
    return {}


def unpacked_elements(name: str, tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]) -> int:
    """Return the number of weights that a tensor stands for.

    Packed weights count unpacked, by their layer's group size; their scales and biases count as 0.
    """
    tensor = tensors[name]
    layer, _, last = name.rpartition(".")
    scales = tensors.get(f"{layer}.scales")
    if scales is None or f"{layer}.weight" not in tensors:
        return tensor.elements
    if last in ("scales", "biases"):
        return 0
    if last != "weight" or not scales.shape:
        return tensor.elements
    if scales.dtype == "U8" and (group := FP_GROUPS.get(tensor.shape[-1] // max(1, scales.shape[-1]))):
        return math.prod(tensor.shape[:-1]) * scales.shape[-1] * group
    table = quantization_of(config)
    own = table.get(layer)
    size = (own if isinstance(own, dict) else table).get("group_size")
    group = size if isinstance(size, int) and 0 < size <= 1024 else DEFAULT_GROUP_SIZE
    return math.prod(tensor.shape[:-1]) * scales.shape[-1] * group


def read_tensors(model: InstalledModel) -> list[dict[str, Any]]:
    """Return `name`, `type` and `shape` of each tensor of a GGUF or safetensors model. Raises StorageError."""
    if model.format == "gguf":
        found = read_gguf_header(model.path, longest=0).tensors
        return [{"name": _plain(tensor.name), "type": tensor.kind, "shape": list(tensor.shape)} for tensor in found]
    files = sorted(model.path.glob("*.safetensors"))
    return [
        {"name": _plain(name), "type": _plain(tensor.dtype), "shape": list(tensor.shape)}
        for file in files
        for name, tensor in read_safetensors_header(file).items()
    ]


def _plain(text: str) -> str:
    """Return a text without surrogates, which no answer can hold."""
    return text.encode("utf-8", "replace").decode("utf-8", "replace")


def _tensors(shown: str, raw: dict[str, Any], data: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in raw.items():
        try:
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            dtype = entry["dtype"]
            sound = isinstance(dtype, str) and all(type(n) is int and n < 1 << 63 for n in (begin, end, *shape))
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(shown, f"tensor {name[:80]!r} is not described") from error
        if not sound or not 0 <= begin <= end <= data or min(shape, default=0) < 0 or len(shape) > MAX_DIMENSIONS:
            raise _damaged(shown, f"tensor {name[:80]!r} is outside the file: it is truncated or corrupt")
        tensors[name] = (dtype, shape, end - begin)
        spans.append((begin, end))
    spans.sort()
    if any(first[1] > second[0] for first, second in pairwise(spans)):
        raise _damaged(shown, "its tensors overlap")
    if (spans[-1][1] if spans else 0) != data:
        raise _damaged(shown, "its length is not what its header says")
    return tensors


def _damaged(shown: str, why: str) -> StorageError:
    return StorageError(f"{shown} is damaged: {why}", code="MDL003", hint="ollmlx doctor storage")
