"""Fill in the middle: prompts of the shape prefix, suffix, hole, for tokenizers that have markers for it."""

from __future__ import annotations

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


def insert_tokens(tokenizer: Any, prefix: str, suffix: str) -> list[int] | None:
    """Token ids that ask for the text between `prefix` and `suffix`, or None when the tokenizer has no markers."""
    vocabulary = tokenizer.get_vocab()
    for before, after, middle, suffix_first in _FORMATS:
        if not all(marker in vocabulary for marker in (before, after, middle) if marker):
            continue

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and _adds_bos(tokenizer) else []
        head = [vocabulary[before], *ids(prefix)]
        tail = [vocabulary[after], *ids(suffix)]
        body = tail + head if suffix_first else head + tail
        return start + body + ([vocabulary[middle]] if middle else [])
    return None


def _adds_bos(tokenizer: Any) -> bool:
    encoded = tokenizer.encode("a")
    return bool(encoded) and encoded[0] == tokenizer.bos_token_id
