"""Tries JSON schemas out in a helper process, which can be stopped: compiling some takes hours or gigabytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ollmlx import run_limited
from ollmlx.errors import InvalidRequest

MAX_SCHEMA: Final = 256 << 10
"""Characters of a schema. Agents send some thousand."""


@lru_cache(maxsize=256)
def check_schema(schema: str) -> None:
    """Raise InvalidRequest for a schema that cannot be compiled, or not within limits. Blocks. Each is tried once."""
    if len(schema) > MAX_SCHEMA:
        raise InvalidRequest(f"the format is longer than {MAX_SCHEMA >> 10} KiB")
    run_limited(_compile, schema, what="the format")


def _compile(schema: str) -> None:
    from llguidance import LLMatcher, LLTokenizer

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False})
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"invalid format: {error}") from error
    matcher = LLMatcher(LLTokenizer("byte"), grammar)
    if matcher.is_error():
        raise InvalidRequest(f"invalid format: {matcher.get_error()[:1000]}")
