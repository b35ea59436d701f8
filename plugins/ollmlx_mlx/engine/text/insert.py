"""Fill-in-the-middle prompts: the text before the gap, the text after it, each behind its special token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ollmlx.runner.kit import find_insert_markers


@dataclass(frozen=True)
class InsertTokens:
    """A tokenizer's ids of the markers in `ollmlx.runner.kit.INSERT_MARKERS`; `start` comes first in every prompt."""

    start: tuple[int, ...]
    prefix: int
    suffix: int
    middle: tuple[int, ...]
    suffix_first: bool

    @staticmethod
    def of(tokenizer: Any) -> InsertTokens | None:
        """Return the tokenizer's marker ids, None when it has none. Slow (it copies the vocabulary): once a model."""
        vocabulary = tokenizer.get_vocab()
        markers = find_insert_markers(vocabulary.__contains__)
        if markers is None:
            return None
        return InsertTokens(
            start=(tokenizer.bos_token_id,) if _adds_bos(tokenizer) else (),
            prefix=vocabulary[markers.prefix],
            suffix=vocabulary[markers.suffix],
            middle=(vocabulary[markers.middle],) if markers.middle else (),
            suffix_first=markers.suffix_first,
        )

    def prompt(self, tokenizer: Any, prefix: str, suffix: str) -> list[int]:
        """Return the token ids that ask for the text between `prefix` and `suffix`."""
        head = [self.prefix, *tokenizer.encode(prefix, add_special_tokens=False)]
        tail = [self.suffix, *tokenizer.encode(suffix, add_special_tokens=False)]
        return [*self.start, *(tail + head if self.suffix_first else head + tail), *self.middle]


def _adds_bos(tokenizer: Any) -> bool:
    encoded = tokenizer.encode("a")
    return tokenizer.bos_token_id is not None and bool(encoded) and encoded[0] == tokenizer.bos_token_id
