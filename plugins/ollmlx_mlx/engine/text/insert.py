"""Fill in the middle: prompts of the shape prefix, suffix, hole, for tokenizers that have markers for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# (prefix, suffix, middle), as written before the three parts; order of parts: True puts the suffix first.
_FORMATS: tuple[tuple[str, str, str, bool], ...] = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", False),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", False),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", False),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", False),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", False),
    ("▁<PRE>", "▁<SUF>", "▁<MID>", False),
    ("[PREFIX]", "[SUFFIX]", "", True),
)


@dataclass(frozen=True)
class HoleMarkers:
    """The token ids that a model's tokenizer puts before the three parts; `start` precedes everything."""

    start: tuple[int, ...]
    prefix: int
    suffix: int
    middle: tuple[int, ...]
    suffix_first: bool

    @staticmethod
    def of(tokenizer: Any) -> HoleMarkers | None:
        """The markers of this tokenizer, None when it has none. Slow (it copies the vocabulary): ask once a model."""
        vocabulary = tokenizer.get_vocab()
        for before, after, middle, suffix_first in _FORMATS:
            if all(marker in vocabulary for marker in (before, after, middle) if marker):
                start = (tokenizer.bos_token_id,) if _adds_bos(tokenizer) else ()
                hole = (vocabulary[middle],) if middle else ()
                return HoleMarkers(start, vocabulary[before], vocabulary[after], hole, suffix_first)
        return None

    def tokens(self, tokenizer: Any, prefix: str, suffix: str) -> list[int]:
        """Token ids that ask for the text between `prefix` and `suffix`."""
        head = [self.prefix, *tokenizer.encode(prefix, add_special_tokens=False)]
        tail = [self.suffix, *tokenizer.encode(suffix, add_special_tokens=False)]
        return [*self.start, *(tail + head if self.suffix_first else head + tail), *self.middle]


def _adds_bos(tokenizer: Any) -> bool:
    encoded = tokenizer.encode("a")
    return tokenizer.bos_token_id is not None and bool(encoded) and encoded[0] == tokenizer.bos_token_id
