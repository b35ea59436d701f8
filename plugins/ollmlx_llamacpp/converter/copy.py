"""Writes the copies: a file for the language model, and one for its projector. Weights are passed on as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from ollmlx import read_gguf_header
from ollmlx.errors import InvalidRequest
from ollmlx.storekit import check_space
from ollmlx_llamacpp.families import FAMILIES, PREFIXES, EyeRules, TextRules, family_of

MODEL: Final = "model.gguf"
PROJECTOR: Final = "mmproj.gguf"
_VOCABULARY: Final = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_SENSES: Final = (".vision.", ".audio.", ".mm.")
"""Parts of keys that belong to a projector."""

Report = Callable[[str, int, int], None]
"""A function that is told a step, its bytes, and how many of them are done."""


@dataclass(frozen=True)
class Copied:
    """A tensor of a copy: its name there, and its data; `promoted` ones are written in float32.

    `heads`: the rows of each of so many heads are interleaved, one of the first half and one of the second. `row`: the
    only row that is written.
    """

    name: str
    tensor: Any
    promoted: bool = False
    heads: int = 0
    row: int | None = None

    def data(self) -> Any:
        """Return the values to write. Tensors that are passed on stay in the file until they are written."""
        found = self.tensor.data if self.row is None else self.tensor.data[self.row : self.row + 1]
        if self.heads:
            return found.reshape(self.heads, 2, -1, found.shape[-1]).swapaxes(1, 2).reshape(found.shape)
        if not self.promoted:
            return found
        shape = [int(side) for side in reversed(self.tensor.shape)] if self.row is None else -1
        return gguf.quants.dequantize(found, self.tensor.tensor_type).astype(np.float32).reshape(shape)


def convert(source: Path, into: Path, report: Report) -> None:
    """Write the copies of a file into a folder. Raises InvalidRequest, StorageError."""
    read_gguf_header(source, longest=0, here=True)  # refuses damaged files before the library reads them
    check_space(into, source.stat().st_size)
    try:
        _convert(source, into, report)
    except (ValueError, KeyError, IndexError, TypeError) as error:  # what the library raises for odd files
        raise InvalidRequest(f"its header is not one that can be converted: {error!r:.200}") from error


def _convert(source: Path, into: Path, report: Report) -> None:
    reader = gguf.GGUFReader(source)
    shapes = {each.name: tuple(int(side) for side in reversed(each.shape)) for each in reader.tensors}
    kind = _text(reader, "general.architecture")
    if kind == "clip":
        _write_projector_type(reader, into, report)
        return
    rules = FAMILIES.get(family_of(kind, shapes))
    if rules is None:
        raise InvalidRequest(f"files of the architecture {kind[:80]!r} are not converted")
    seeing = [each for each in reader.tensors if each.name.startswith(PREFIXES)]
    total = sum(int(each.n_bytes) for each in reader.tensors)
    progress = _Progress(report, total)

    def own(key: str) -> Any:
        field = reader.get_field(f"{kind}.{key}")
        return field.contents() if field is not None else None

    text = [Copied(_renamed(each.name, rules.names), each) for each in reader.tensors if each not in seeing]
    writer = gguf.GGUFWriter(into / MODEL, rules.to)
    _write_text_keys(writer, reader, kind, rules, rows=shapes.get("token_embd.weight", (0,))[0])
    _add(writer, {f"{rules.to}.{key}": value for key, value in rules.fixed(own, shapes).items()})
    _add(writer, rules.metadata)
    _write(writer, text, progress)
    if seeing and rules.eye is not None:
        writer = gguf.GGUFWriter(into / PROJECTOR, "clip")
        _write_eye_keys(writer, rules.eye, own, shapes)
        _write(writer, list(_projector(reader, seeing, rules.eye, own("vision.attention.head_count"))), progress)


def _projector(reader: Any, seeing: Sequence[Any], eye: EyeRules, heads: int) -> Iterator[Copied]:
    """Yield the tensors of a projector."""
    for each in seeing:
        name = _renamed(each.name, eye.names)
        turned = each.name.startswith("v.") and each.name.endswith(eye.interleaved) if eye.interleaved else False
        yield Copied(name, each, name in eye.promoted, heads=heads if turned else 0)
    if eye.breaks:
        tokens = _values(reader.get_field("tokenizer.ggml.tokens"))
        embedding = next(each for each in reader.tensors if each.name == "token_embd.weight")
        yield Copied("v.token_embd.img_break", embedding, promoted=True, row=tokens.index(eye.breaks.encode()))


def _write_projector_type(reader: Any, into: Path, report: Report) -> None:
    """Copy a projector that does not say its type: those that do not are LLaVA's."""
    writer = gguf.GGUFWriter(into / PROJECTOR, "clip")
    rules = TextRules("clip", metadata={"clip.projector_type": "mlp"})
    _write_text_keys(writer, reader, "", rules, rows=0)
    _add(writer, rules.metadata)
    tensors = [Copied(each.name, each) for each in reader.tensors]
    _write(writer, tensors, _Progress(report, sum(int(each.n_bytes) for each in reader.tensors)))


class _Progress:
    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def add(self, count: int) -> None:
        self.done += count
        self.report("converting model", self.total, self.done)


def _renamed(name: str, names: Sequence[tuple[str, str]]) -> str:
    for old, new in names:
        part = old.removeprefix("^")
        has_it_already = part in new and new in name
        if name.startswith(part) if old != part else part in name and not has_it_already:
            name = name.replace(part, new, 1)
    return name


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return bytes(field.parts[-1]).decode("utf-8", "replace") if field is not None else ""


def _write_text_keys(writer: Any, reader: Any, kind: str, rules: TextRules, *, rows: int) -> None:
    """Pass the metadata on under llama.cpp's names, without what belongs to the projector.

    `rows`: of the embedding. Vocabularies that are longer have tokens for pictures that no row belongs to.
    """
    for field in reader.fields.values():
        key = field.name
        if key.startswith("GGUF.") or key == "general.architecture" or not field.types:
            continue
        prefix, _, own = key.partition(".")
        if prefix == kind:
            if any(part in key for part in _SENSES) or own in rules.dropped:
                continue
            key = f"{rules.to}.{rules.keys.get(own, own)}"
        values = _values(field)
        if key in rules.metadata or (isinstance(values, list) and not values):
            continue
        if key in _VOCABULARY and rows:
            values = values[:rows]
        writer.add_key_value(key, values, field.types[0], field.types[-1] if len(field.types) > 1 else None)


def _values(field: Any) -> Any:
    """Return a field's value. Texts stay bytes, because a token is not always whole UTF-8."""
    if field.types[-1] != gguf.GGUFValueType.STRING:
        return field.contents()
    texts = [bytes(field.parts[at]) for at in field.data]
    return texts if field.types[0] == gguf.GGUFValueType.ARRAY else texts[0]


def _write_eye_keys(writer: Any, eye: EyeRules, own: Callable[[str], Any], shapes: Mapping[str, Any]) -> None:
    found = {key: own(stored) for key, stored in eye.keys.items()}
    found |= {"projection_dim": own("embedding_length"), **eye.fixed(own, shapes)}
    missing = sorted(key for key, value in found.items() if value is None)
    if missing:
        raise InvalidRequest(f"the metadata of its projector lacks {missing[0]}")
    found["attention.layer_norm_epsilon"] = own("vision.attention.layer_norm_epsilon") or eye.epsilon
    writer.add_type(gguf.GGUFType.MMPROJ)
    _add(writer, {f"clip.vision.{key}": value for key, value in found.items()})
    _add(writer, {"clip.projector_type": eye.kind, "clip.has_vision_encoder": True, f"clip.{eye.activation}": True})
    writer.add_array("clip.vision.image_mean", list(eye.mean))
    writer.add_array("clip.vision.image_std", list(eye.deviation))


def _add(writer: Any, values: Mapping[str, Any]) -> None:
    """Set keys with the types that llama.cpp reads them with."""
    kinds = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}
    for key, value in values.items():
        getattr(writer, kinds[type(value)])(key, value)


def _write(writer: Any, tensors: Sequence[Copied], progress: _Progress) -> None:
    for each in tensors:
        data = each.data()
        raw = None if each.promoted else each.tensor.tensor_type
        writer.add_tensor_info(each.name, data.shape, data.dtype, data.nbytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for each in tensors:
        writer.write_tensor_data(each.data())
        progress.add(int(each.tensor.n_bytes) if each.row is None else 0)
    writer.close()
