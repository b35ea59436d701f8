"""Masking of secrets: values of secret keys, and secrets inside of texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK = "********"
_WORDS: Final = (
    r"api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|secret|token|passw(?:or)?d|passphrase|pwd"
    r"|authorization|credential|cookie|signature|connection[_-]?string"
)
_KEY = re.compile(rf"({_WORDS})s?", re.IGNORECASE)
_HARMLESS = re.compile(
    r"tokens?_(per|total|count)|(prompt|cached|generated|eval|max|num|bos|eos|pad|unk)_?tokens?|tokeniz", re.IGNORECASE
)
_PREFIXES: Final = (
    *("hf_", "sk-", "sk_live_", "sk_test_", "rk_live_", "pk_live_", "whsec_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *("github_pat_", "glpat-", "gldt-", "glrt-", "pypi-", "npm_", "dckr_pat_", "xoxa-", "xoxb-", "xoxe-", "xoxp-"),
    *("xoxr-", "xoxs-", "xapp-", "nvapi-", "gsk_", "r8_", "SG.", "dop_v1_", "shpat_", "ya29.", "AIza", "AKIA", "ASIA"),
    *("AGE-SECRET-KEY-1", "ATATT3", "lin_api_", "tskey-", "hvs.", "GOCSPX-", "AccountKey="),
)
"""Beginnings of the secrets of well-known services: model hubs, code hosts, package indexes, clouds, chat services."""
_NAMED: Final = rf"(?i)((?:{_WORDS}|secrets|credentials)(?:[_-](?:id|key|value))?[\"']?\s*(?:=>|[=:])\s*"
_IN_TEXT: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)",
        r"(?i)((?<![a-z0-9+.\-])[a-z][a-z0-9+.\-]{0,40}://)[^/\s\"'<>?#]+(?=@)",
        r"(?i)((?:set-)?cookie[\"']?\s*[=:]\s*[\"']?)[^\n\"']+",
        r"(?i)(authorization[\"']?\s*[=:]\s*[\"']?)(?:[a-z]+\s+)?[^\s\"',]+",
        r"(?i)(\b(?:bearer|apikey)\s+)[A-Za-z0-9][A-Za-z0-9._~+/=\-]*",
        r"(\b(?i:basic)\s+)(?=[A-Za-z0-9+/_\-]*[A-Z0-9=])[A-Za-z0-9+/_\-]{6,}={0,2}",
        rf"{_NAMED}[\"'])[^\"'\n]+(?=[\"'])",
        rf"{_NAMED}[\"']?)[^\s\"',;&]{{4,}}",
        r"(?i)([?&](?:[\w%\-]{0,40}(?:key|token|secret|auth|pass|signature|credential)[\w%\-]{0,40}|sig|code)=)"
        r"[^&\s\"'#]+",
        rf"(?i)(\s--?(?:[a-z]+-)*(?:{_WORDS})[\w-]*[ =])\S+",
        r"(\s(?:-u|--user|--proxy-user)[ =]?)\S+:\S+",
        r"(?i)(\blogin\s+)\S+\s+passw(?:or)?d\s+\S+",
        r"(?i)(//hooks\.slack\.com/services/|//discord(?:app)?\.com/api/webhooks/)\S+",
        rf"((?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, _PREFIXES))}))[A-Za-z0-9_\-.+/=]{{6,}}",
        r"((?<![A-Za-z0-9])eyJ)[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)?",
    )
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
    """Return a copy of JSON-like data with the values of secret keys, and secrets inside of texts, masked."""
    if isinstance(value, Mapping):
        return {key: mask_value(item) if is_secret_key(str(key)) else mask_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_tree(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Mask the secrets in a text: user and password of a URL, values of secret names, headers, tokens of services."""
    for pattern in _IN_TEXT:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text
