"""Describes a GGUF model by the headers of its files, by Ollama's rules; no weights are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ollmlx.formats.gguf import GgufHeader
from ollmlx.formats.ollama_gguf import DIALECT_KEY, ollama_dialect, ollama_projector
from ollmlx.model.installed import Capability, ModelDetails
from ollmlx.model.templates import MAX_TEMPLATE
from ollmlx.storekit.files import damaged
from ollmlx.storekit.model_index import ModelDescription
from ollmlx.text.quantities import format_count

RANK: Final = 4
"""`pooling_type` of models that score documents."""
LONGEST_ARRAY: Final = 1024
"""Longer arrays of the metadata, such as the vocabulary, are not kept."""

SEES: Final = "clip.has_vision_encoder"
HEARS: Final = "clip.has_audio_encoder"
"""Keys of projectors. One that has neither is of the first ones, which all see."""

FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""llama.cpp's names for `general.file_type` of GGUF files, by their number."""

_FIRST_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")
_GO_WORDS: Final[dict[Capability, re.Pattern[str]]] = {
    "tools": re.compile(r"\{\{[^{}]*\.Tools\b"),
    "insert": re.compile(r"\{\{[^{}]*\.Suffix\b"),
    "thinking": re.compile(r"\{\{[^{}]*\.(Thinking|Think|IsThinkSet)\b"),
}
"""No expression begins its search again at every brace: its time would grow with the square of the text."""
_JINJA_WORDS: Final[dict[Capability, re.Pattern[str]]] = {
    "tools": re.compile(r"\btools\b"),
    "thinking": re.compile(r"enable_thinking|<think>|\bthinking\b"),
}


def describe_gguf(
    header: GgufHeader, *, template: str | None = None, projectors: Sequence[GgufHeader] = ()
) -> ModelDescription:
    """Describe a model by its header. `template` replaces the one of the file; `projectors` are files beside it."""
    shown = _plain(template or header.metadata.get("tokenizer.chat_template"))
    family = _plain(header.architecture)
    if isinstance(shown, str) and len(shown) > MAX_TEMPLATE:
        raise damaged(f"the chat template is longer than {MAX_TEMPLATE >> 10} KiB")
    return ModelDescription(
        format="gguf",
        details=ModelDetails(
            format="gguf",
            family=family,
            families=(family,) if family else (),
            parameter_size=format_count(_parameters(header)),
            quantization_level=_file_type(header),
            context_length=_length(header, "context_length"),
            embedding_length=_length(header, "embedding_length"),
        ),
        capabilities=_capabilities(header, shown, projectors),
        info={**_info(header), **_dialect(header, projectors)},
        chat_template=shown if isinstance(shown, str) else None,
        projector_info=_info(projectors[0]) if projectors else {},
    )


def gguf_parts(path: Path) -> list[Path]:
    """Return all files of a GGUF model: those that `NAME-00001-of-00003.gguf` promises, whether they exist or not."""
    part = _FIRST_PART.search(path.name)
    if part is None:
        return [path]
    stem = path.name[: part.start()]
    return [path.with_name(f"{stem}-{number:05}-of-{part[1]}.gguf") for number in range(1, int(part[1]) + 1)]


def _parameters(header: GgufHeader) -> int:
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def _file_type(header: GgufHeader) -> str:
    """Return the name of the quantisation, such as `Q4_K_M`; `unknown` if llama.cpp's number is not in the table."""
    number = header.metadata.get("general.file_type")
    return FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown"


def _length(header: GgufHeader, key: str) -> int | None:
    value = header.own(key)
    return value if isinstance(value, int) and value > 0 else None


def _capabilities(header: GgufHeader, template: Any, projectors: Sequence[GgufHeader]) -> tuple[Capability, ...]:
    """Return a model's capabilities by Ollama's rules: from the weights and from words in the template."""
    if header.own("pooling_type") == RANK:
        return ("rerank",)
    if header.own("pooling_type") is not None:
        return ("embedding",)
    text = template if isinstance(template, str) else ""
    words = _JINJA_WORDS if "{%" in text else _GO_WORDS
    found: set[Capability] = {capability for capability, pattern in words.items() if pattern.search(text)}
    hearing = [bool(projector.metadata.get(HEARS)) for projector in projectors]
    seeing = [bool(projector.metadata.get(SEES)) for projector in projectors]
    if any(seeing) or not all(hearing) or header.own("vision.block_count") is not None:
        found.add("vision")
    if any(hearing) or header.own("audio.block_count") is not None:
        found.add("audio")
    order: tuple[Capability, ...] = ("tools", "insert", "vision", "audio", "thinking")
    return ("completion", *(capability for capability in order if capability in found))


def _info(header: GgufHeader) -> dict[str, Any]:
    """Return the flat metadata, without long arrays and the template."""
    found = {_plain(key): _plain(value) for key, value in header.metadata.items() if value is not None}
    found.pop("tokenizer.chat_template", None)
    return {**found, "general.parameter_count": _parameters(header)}


def _dialect(header: GgufHeader, projectors: Sequence[GgufHeader]) -> dict[str, str]:
    found = ollama_dialect(header) or next(filter(None, map(ollama_projector, projectors)), None)
    return {DIALECT_KEY: found} if found else {}


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: text without surrogates, no NaN and no infinity."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, list) else value
