"""Masking of secrets: values of secret keys, and tokens inside of texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"
_KEY = re.compile(r"(api[_-]?key|token|secret|passw|authorization|credential|cookie|private[_-]?key)s?", re.IGNORECASE)
_HARMLESS = re.compile(
    r"tokens?_(per|total|count)|(prompt|cached|generated|eval|max|num|bos|eos|pad|unk)_?tokens?|tokeniz", re.IGNORECASE
)
_IN_TEXT = (
    re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=\-]+"),
    re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|xox[abp]-)[A-Za-z0-9_\-]{6,}"),
    re.compile(r"(?i)((?:api[_-]?key|token|secret|password|passwd)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{4,}"),
    re.compile(r"(?i)(://[^/\s:@]+:)[^/\s@]+(?=@)"),
)


def is_secret_key(name: str) -> bool:
    """True if a setting, variable or JSON key of this name holds a secret."""
    return bool(_KEY.search(name)) and not _HARMLESS.search(name)


def mask_value(value: Any) -> Any:
    """Return the same structure with every value masked. Empty values stay, which shows that they are not set."""
    if isinstance(value, Mapping):
        return {key: mask_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_value(item) for item in value]
    return MASK if value not in (None, "", False) else value


def mask_tree(value: Any) -> Any:
    """Return a copy of JSON-like data with the values of secret keys, and tokens inside of texts, masked."""
    if isinstance(value, Mapping):
        return {key: mask_value(item) if is_secret_key(str(key)) else mask_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_tree(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Mask the tokens in a text (`Bearer …`, `hf_…`, `token=…`, a password in a URL)."""
    for pattern in _IN_TEXT:
        text = pattern.sub(lambda match: f"{match.group(1)}{MASK}", text)
    return text
