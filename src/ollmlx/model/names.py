"""Model names. The text that a person types is parsed once, into `ModelName`.

Accepted: `name[:tag]`, `org/name[:tag]`, `org_name` (the folder spelling), `hf.co/org/name[:tag]`,
`registry/org/name[:tag]`. Two names are equal when they have the same key: `mlx-community/x` and `mlx-community_x`
are one model in one folder, in either spelling and any letter case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ollmlx.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

DEFAULT_TAG = "latest"
DEFAULT_REGISTRIES = frozenset({"registry.ollama.ai", "ollama.com"})
HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
MAX_PART = 96  # the hub's own limit for a repository id's part
MAX_HOST = 253
FORMS = "use NAME, NAME:TAG or ORG/NAME"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ModelName:
    """One model name. `str(name)` is the canonical form, always with its tag. Names with the same `key` are equal.

    `via` is the well-known host that was typed before the name (`registry.ollama.ai`, `hf.co`). The model is pulled
    from there; the host is no part of the name.
    """

    name: str = field(compare=False)
    org: str | None = field(default=None, compare=False)
    tag: str = field(default=DEFAULT_TAG, compare=False)
    host: str | None = field(default=None, compare=False)
    via: str | None = field(default=None, compare=False)
    key: str = field(init=False, repr=False)
    """The identity of the model: its folder in lower case, because macOS folders ignore case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.folder.lower())

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse a typed name. Raises InvalidRequest with the reason for anything that is not a model name."""
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest("model is required", code="MDL001")
        return _parse(text)

    @property
    def repo_id(self) -> str | None:
        """`org/name` on a hub; None when the name says no organisation in either spelling."""
        if self.org is not None:
            return f"{self.org}/{self.name}"
        org, underscore, name = self.name.partition("_")
        return f"{org}/{name}" if underscore and org and name else None

    @property
    def folder(self) -> str:
        """The only folder name that this model can have. It has no separator and no leading dot."""
        folder = f"{self.org}_{self.name}" if self.org else self.name
        if self.host:
            folder = f"{self.host.replace(':', '+')}_{folder}"
        return folder if self.tag == DEFAULT_TAG else f"{folder}@{self.tag}"

    @classmethod
    def from_folder(cls, folder: str) -> ModelName:
        """The name of a folder that carries no manifest (copied there by hand)."""
        stem, at, tag = folder.partition("@")
        name = cls.parse(f"{stem}:{tag}" if at else stem)
        org, underscore, rest = stem.partition("_")
        return cls(rest, org, name.tag) if underscore and org and rest else name

    @property
    def short(self) -> str:
        """The canonical form without the tag `latest`, as a person would type it."""
        return str(self).removesuffix(f":{DEFAULT_TAG}")

    def same_spelling(self, other: ModelName) -> bool:
        """True if both names are the same model in spelling, too: `a/b_c` and `a_b/c` share a key and differ."""
        return self.key == other.key and (
            self.org is None or other.org is None or self.org.lower() == other.org.lower()
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.host, self.org, f"{self.name}:{self.tag}") if part)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        from pydantic_core import core_schema

        parse = core_schema.no_info_plain_validator_function(lambda v: v if isinstance(v, cls) else cls.parse(v))
        return core_schema.json_or_python_schema(
            json_schema=parse, python_schema=parse, serialization=core_schema.to_string_ser_schema()
        )


@cache
def load_catalogue() -> Mapping[str, str]:
    """Return the packaged catalogue: short name -> full name. The tables of the file are groups for its reader."""
    import tomllib  # both cost start-up time, and most programs that parse names need no catalogue
    from importlib.resources import files

    tables = tomllib.loads(files("ollmlx.model").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return MappingProxyType({short: full for lines in tables.values() for short, full in lines.items()})


def parse_digest(text: str) -> str:
    """Return the 64 hexadecimal digits of `sha256:…` or `sha256-…`. Every digest in a path comes from here."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidRequest("invalid digest format")
    return match.group(1)


@lru_cache(maxsize=1024)
def _parse(text: str) -> ModelName:
    """Parse a name. The names of late are kept, because most requests name the same few models."""
    text = _checked(text)
    host: str | None = None
    parts = re.sub(r"^https?://", "", text).split("/")
    if len(parts) > 3 or any(not part for part in parts):
        raise _invalid(_shown(text), hint=FORMS)
    if len(parts) == 3:
        host, parts = parts[0].lower(), parts[1:]
        if not _HOST.fullmatch(host) or len(host) > MAX_HOST or ".." in host:
            raise _invalid(f"{_shown(host)} is not a host")
    name, colon, tag = parts[-1].partition(":")
    org = parts[0] if len(parts) == 2 else None
    for label, part in (("name", name), ("tag", tag if colon else DEFAULT_TAG), ("organisation", org)):
        if part is not None:
            _check_part(label, part, text)
    via: str | None = None
    if host in HUB_HOSTS or host in DEFAULT_REGISTRIES:
        via, host = host, None
    if org == "library" and host is None:
        org = None
    return ModelName(name, org, tag if colon else DEFAULT_TAG, host, via)


def _checked(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    if any(unicodedata.category(char)[0] == "C" for char in text):
        raise _invalid("it contains control characters")
    if text.startswith(("/", ".", "~", "-", "\\")) or "\\" in text:
        raise _invalid(f"{_shown(text)} is a path", hint=FORMS)
    return text


def _check_part(label: str, part: str, text: str) -> None:
    if len(part) > MAX_PART:
        raise _invalid(f"its {label} is longer than {MAX_PART} characters")
    if not _PART.fullmatch(part) or ".." in part:
        raise _invalid(_shown(text), hint="use letters, digits, '-', '_' and '.'")


def _invalid(problem: str, *, hint: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"invalid model name: {problem}", code="MDL001", hint=hint)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
