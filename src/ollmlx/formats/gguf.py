"""The header of a GGUF file: metadata and the place of each tensor. Bounded, pure Python; reads no weights.

The format is the ggml project's specification, versions 2 and 3, little-endian. Every length that the file states is
checked against a cap and against the size of the file before it is used. The file is not mapped into memory: somebody
else may shorten it meanwhile. A large header is read in a helper process.
"""

from __future__ import annotations

import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ollmlx.errors import StorageError
from ollmlx.formats.foreign import HEAD, foreign_content
from ollmlx.helper import run_limited

SMALLEST: Final = 24
MAX_HEADER: Final = 64 << 20
SMALL_HEADER: Final = 64 << 10
"""Bytes of a header that is read without a helper: at most some milliseconds of work."""
CPU_SECONDS: Final = 5
MAX_TENSORS: Final = 1 << 16
MAX_KEYS: Final = 1 << 14
MAX_ITEMS: Final = 1 << 22
MAX_KEPT: Final = 1 << 18
"""Items of all arrays that are kept, when long arrays are skipped."""
MAX_NAME: Final = 1 << 16
MAX_TEXT: Final = 16 * 1024**2
MAX_DIMENSIONS: Final = 4
DEFAULT_ALIGNMENT: Final = 32

_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

GGUF_BLOCKS: Final[dict[str, tuple[int, int, int]]] = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
}
"""Tensor types that can be read: number in the file, values in a block, bytes in a block."""

_TYPE_NAMES: Final = {number: name for name, (number, _, _) in GGUF_BLOCKS.items()}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor: `shape` with the row length last, `kind` a key of GGUF_BLOCKS or `type N`, `offset` in the file."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file. `size`: the size of the file in bytes."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    size: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, or an empty string if it is no text."""
        name = self.metadata.get("general.architecture")
        return name if isinstance(name, str) else ""

    def own(self, key: str, default: Any = None) -> Any:
        """The value of `<architecture>.<key>` in the metadata."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_gguf_header(path: Path, *, longest: int | None = None, here: bool = False) -> GgufHeader:
    """Read the header of a GGUF file. Raises StorageError with the name of the file and the problem, LimitExceeded.

    Arrays with more than `longest` items are skipped and become None, because a vocabulary takes a second to read.
    `here` reads it in this process, which has no other work to delay: an importer, a runner that loads.
    """
    try:
        if here:
            return _read(path, longest, MAX_HEADER)
        return _read(path, longest, SMALL_HEADER)
    except _Long:
        parts = run_limited(_parts, str(path), longest, what=path.name, cpu=CPU_SECONDS, code="MDL003")
        version, metadata, tensors, size = parts
        return GgufHeader(version, metadata, tuple(GgufTensor(*tensor) for tensor in tensors), size)


def _parts(path: str, longest: int | None) -> tuple[int, dict[str, Any], list[tuple[Any, ...]], int]:
    """Return the parts of a header as plain data. Called in a helper."""
    found = _read(Path(path), longest, MAX_HEADER)
    tensors = [(each.name, each.shape, each.kind, each.offset, each.nbytes) for each in found.tensors]
    return found.version, found.metadata, tensors, found.size


def _read(path: Path, longest: int | None, limit: int) -> GgufHeader:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
            raise _Bad("it is not a regular file")
        if 0 < found.st_size < SMALLEST:
            raise _Bad("it is too short")
        with path.open("rb") as file:
            head = file.read(HEAD)
            if not head.startswith(b"GGUF") and (problem := foreign_content(head, found.st_size)) is not None:
                raise _Bad(problem)
            file.seek(0)
            return _Reader(file, found.st_size, longest, limit).header()
    except _Bad as bad:
        raise StorageError(f"{path.name} is not a usable GGUF file: {bad}", code="MDL003") from None
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror or error}") from error


class _Bad(ValueError):
    """The problem of the file."""


class _Long(Exception):
    """The header is longer than the reader may read."""


class _Reader:
    """A cursor over the beginning of the file. Every read is checked against the cap and the end of the file."""

    def __init__(self, file: IO[bytes], size: int, longest: int | None, limit: int) -> None:
        self.file = file
        self.data = b""
        self.size = size
        self.longest = MAX_ITEMS if longest is None else longest
        self.room = MAX_ITEMS if longest is None else MAX_KEPT
        self.limit = limit
        self.at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise _Bad("it does not start with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise _Bad(f"its version is {version if version < 1 << 16 else 'big-endian'}; versions 2 and 3 can be read")
        tensors = self._count("<Q", MAX_TENSORS, "tensors")
        keys = self._count("<Q", MAX_KEYS, "metadata keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text(MAX_NAME, "a key")
            if name in metadata:
                raise _Bad(f"the key {name[:80]!r} occurs twice")
            metadata[name] = self._value(self._number("<I"))
        raw = [self._tensor() for _ in range(tensors)]
        return GgufHeader(version, metadata, self._placed(raw, metadata), self.size)

    def _placed(
        self, raw: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]
    ) -> tuple[GgufTensor, ...]:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise _Bad("its alignment is not a power of two")
        start = -(-self.at // alignment) * alignment
        placed = []
        names = set()
        for name, shape, number, offset in raw:
            kind = _TYPE_NAMES.get(number, f"type {number}")
            nbytes = _nbytes(name, shape, kind) if kind in GGUF_BLOCKS else 0
            if start + offset + nbytes > self.size:
                raise _Bad(f"tensor {name!r} reaches beyond the end of the file: it is cut short or damaged")
            if name in names:
                raise _Bad(f"tensor {name!r} occurs twice")
            names.add(name)
            placed.append(GgufTensor(name, shape, kind, start + offset, nbytes))
        return tuple(placed)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(MAX_NAME, "a tensor's name")
        count = self._count("<I", MAX_DIMENSIONS, f"dimensions of {name[:80]!r}")
        shape = tuple(self._number("<Q") for _ in range(count))
        return name, tuple(reversed(shape)), self._number("<I"), self._number("<Q")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text(MAX_TEXT, "a text")
        if kind == _ARRAY:
            return self._array()
        raise _Bad(f"it holds a value of the unknown type {kind}")

    def _array(self) -> list[Any] | None:
        kind = self._number("<I")
        count = self._count("<Q", MAX_ITEMS, "items of an array")
        if kind == _STRING:
            if count > self.longest:
                self._pass_texts(count)
                return None
            self._keep(count)
            return [self._text(MAX_TEXT, "a text") for _ in range(count)]
        if kind not in _SCALARS:
            raise _Bad(f"it holds an array of the unsupported type {kind}")
        form = _SCALARS[kind]
        size = struct.calcsize(form) * count
        if count > self.longest:
            self._need(self.at + size)
            self.at += size
            return None
        self._keep(count)
        return list(struct.unpack(f"<{count}{form[1]}", self._take(size)))

    def _keep(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise _Bad("its arrays have too many items")

    def _pass_texts(self, count: int) -> None:
        at, length_at = self.at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > len(self.data):
                self._need(at + 8)
            at += 8 + length_at(self.data, at)[0]
        self._need(at)
        self.at = at

    def _text(self, cap: int, what: str) -> str:
        # A token is not always whole UTF-8; surrogateescape keeps such bytes apart from each other.
        return self._take(self._count("<Q", cap, f"bytes of {what}")).decode("utf-8", "surrogateescape")

    def _count(self, form: str, cap: int, what: str) -> int:
        count: int = self._number(form)
        if count > cap:
            raise _Bad(f"it claims {count} {what}")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, count: int) -> bytes:
        end = self.at + count
        self._need(end)
        found = self.data[self.at : end]
        self.at = end
        return found

    def _need(self, end: int) -> None:
        """Read on until the file's first `end` bytes are here."""
        if end <= len(self.data):
            return
        if end > min(self.size, MAX_HEADER):
            raise _Bad("its header is cut short or too large")
        if end > self.limit:
            raise _Long
        wanted = min(self.limit, max(end, 2 * len(self.data), SMALL_HEADER))
        self.data += self.file.read(wanted - len(self.data))
        if len(self.data) < end:
            raise _Bad("it was cut short while it was read")


def _nbytes(name: str, shape: tuple[int, ...], kind: str) -> int:
    _, values, size = GGUF_BLOCKS[kind]
    if not shape or any(side < 1 for side in shape) or shape[-1] % values:
        raise _Bad(f"tensor {name!r} has an impossible shape {shape}")
    return math.prod(shape) // values * size
