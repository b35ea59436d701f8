"""Tries schemas and grammars out in a helper process, which can be stopped: some need hours or gigabytes to compile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from ollmlx.errors import InvalidRequest
from ollmlx.helper import run_limited

MAX_SCHEMA: Final = 256 << 10
"""Characters of a schema. Agents send some thousand."""


T = TypeVar("T")
_thread: Final = ThreadPoolExecutor(1, thread_name_prefix="brought")


async def one_by_one(function: Callable[..., T], /, *arguments: Any) -> T:
    """Run a function on what a single request brings (a template, a schema, a grammar) in the thread for these.

    There is one, so what takes seconds delays its like, and leaves a helper to the requests without.
    """
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(function, *arguments))


@lru_cache(maxsize=256)
def check_schema(schema: str) -> None:
    """Raise InvalidRequest for a schema that cannot be compiled, or not within limits. Blocks. Each is tried once."""
    if len(schema) > MAX_SCHEMA:
        raise InvalidRequest(f"the format is longer than {MAX_SCHEMA >> 10} KiB")
    run_limited(_compile, schema, what="the format")


@lru_cache(maxsize=64)
def check_lark(grammar: str) -> None:
    """Raise InvalidRequest for a Lark grammar that cannot be compiled within limits. Blocks. Each is tried once."""
    if len(grammar) > MAX_SCHEMA:
        raise InvalidRequest(f"the grammar is longer than {MAX_SCHEMA >> 10} KiB")
    run_limited(_compile_lark, grammar, what="the grammar")


def _compile_lark(grammar: str) -> None:
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise InvalidRequest(f"invalid grammar: {matcher.get_error()[:1000]}")


def _compile(schema: str) -> None:
    from llguidance import LLMatcher, LLTokenizer

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False})
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"invalid format: {error}") from error
    matcher = LLMatcher(LLTokenizer("byte"), grammar)
    if matcher.is_error():
        raise InvalidRequest(f"invalid format: {matcher.get_error()[:1000]}")
