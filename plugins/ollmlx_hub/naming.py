"""The rule that finds the repository of a library's name, such as `qwen3.5:4b-q8_0`, among those of an organisation.

Pure. Family and size must be the name's; words that the name does not say, such as `coder` or `vision`, make it
another model. Of the rest: instruct before base, 4 bits before 8 unless the tag says it, plain before DWQ, the newest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ollmlx import ModelName

USUAL_SIZE: Final = 9e9
"""Parameters of a model whose name states no size, at most, as those of Ollama's library."""
_SIZE: Final = re.compile(r"(?:e)?(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])")
_BITS: Final = re.compile(r"(\d)bit|q(\d)|int(\d)")
_SPECIAL: Final = {"nvfp4", "mxfp4", "mxfp8", "bf16", "fp16"}
_INSTRUCT: Final = ("instruct", "it", "chat")
_NEUTRAL: Final = re.compile(r"\d{3,}|v\d[\d.]*|\d+k|a\d+(?:\.\d+)?b|mlx|hf|qat|dwq|affine|gs\d+")
"""Words of a repository that make it no other model: dates, versions, context lengths, active parameters, formats."""
_ORDER: Final = ("4bit", "mxfp4", "nvfp4", "5bit", "6bit", "8bit", "mxfp8", "3bit", "bf16", "fp16", "2bit")


@dataclass(frozen=True)
class NamedRepository:
    """A repository that a name may stand for. `modified` in seconds since 1970; `parameters` 0 where it states none."""

    repo: str
    modified: float
    quantization: str
    parameters: float
    words: frozenset[str]


def best(name: ModelName, repositories: Iterable[tuple[str, float]], memory: int) -> list[NamedRepository]:
    """Return the repositories that a name may stand for, the best first. `memory`: bytes that a model may use.

    `repositories`: each with the time of its last change.
    """
    found = [each for repo, modified in repositories if (each := _candidate(name, repo, modified)) is not None]
    sized = any(_SIZE.fullmatch(part) for part in name.tag.lower().split("-"))

    def rank(each: NamedRepository) -> tuple[object, ...]:
        fits = _bytes(each) <= memory and (sized or each.parameters <= USUAL_SIZE)
        instruct = 0 if each.words & {*_INSTRUCT} else 2 if "base" in each.words else 1
        size = 0.0 if sized else -each.parameters if fits else each.parameters
        order = _ORDER.index(each.quantization) if each.quantization in _ORDER else len(_ORDER)
        return (not fits and not sized, size, instruct, order, "dwq" in each.words, -each.modified, each.repo)

    return sorted(found, key=rank)


def _candidate(name: ModelName, repo: str, modified: float) -> NamedRepository | None:
    family = re.sub(r"[-_]", "", name.name.lower())
    words = [word for word in re.split(r"[-_]", repo.partition("/")[2].lower()) if word]
    words = words[1:] if words[:1] == ["meta"] else words
    start = next((count for count in range(1, len(words) + 1) if "".join(words[:count]) == family), 0)
    if not start:
        return None
    asked = [] if name.tag == "latest" else [word.partition("_")[0] for word in name.tag.lower().split("-")]
    rest = words[start:]
    wanted, quantization = _quantization(asked), _quantization(rest) or "bf16"
    sizes = [word for word in asked if _SIZE.fullmatch(word)]
    own = [word for word in rest if _SIZE.fullmatch(word)]
    if (wanted and wanted != quantization) or (sizes and sizes[0] not in own):
        return None
    plain = {word for word in rest if not _is_figure(word)}
    said = {word for word in asked if not _is_figure(word)}
    extra = {word for word in plain - said if word not in (*_INSTRUCT, "base") and not _NEUTRAL.fullmatch(word)}
    missing = said - plain - {"text"}
    if (
        extra
        or missing
        or ("base" in plain and not said & {"base", "text"})
        or ("text" in said and plain & {*_INSTRUCT})
    ):
        return None
    return NamedRepository(repo, modified, quantization, _parameters(own[0]) if own else 0.0, frozenset(plain))


def _is_figure(word: str) -> bool:
    return bool(_SIZE.fullmatch(word) or _BITS.fullmatch(word)) or word in _SPECIAL


def _quantization(words: Iterable[str]) -> str:
    for word in words:
        if bits := _BITS.fullmatch(word):
            return f"{bits[1] or bits[2] or bits[3]}bit"
        if word in _SPECIAL:
            return "bf16" if word == "fp16" else word
    return ""


def _parameters(word: str) -> float:
    found = _SIZE.fullmatch(word)
    assert found is not None
    return int(found[1] or 1) * float(found[2]) * (1e9 if found[3] == "b" else 1e6)


def _bytes(each: NamedRepository) -> float:
    bits = re.search(r"\d+", each.quantization)
    return each.parameters * (int(bits[0]) if bits else 16) / 8 * 1.15
