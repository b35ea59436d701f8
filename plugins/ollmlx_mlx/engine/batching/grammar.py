"""The bounds of an answer: a schema or a grammar, and a limit for the model's thoughts before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.runner.kit import check_schema

Schema = dict[str, Any]

ANY_JSON: Schema = {"type": "object"}
"""The schema of `format: "json"`: an object, as in Ollama's grammar and OpenAI's `json_object`."""
LIMITS = LLParserLimits(max_lexer_states=50_000)
"""A state takes one to two kilobytes: at most 100 MB for an answer."""


class Grammars:
    """Makes constraints for one model. `width`: logits per token. Building the tokenizer takes about 1 s."""

    def __init__(self, tokenizer: Any, width: int, eos: Sequence[int]) -> None:
        self._source = tokenizer
        self._width = width
        self._eos = list(eos)
        self._tokenizer: LLTokenizer | None = None

    def constraint(self, format: str | Schema, *, free: bool, opening: Sequence[int] = ()) -> GrammarConstraint:
        """Return a constraint for one answer.

        `free`: the answer begins outside its normal channel (reasoning), where everything is allowed; `opening`: the
        tokens that may lead there first. Raises InvalidRequest with the reason when the schema cannot be compiled.
        """
        schema = json.dumps(ANY_JSON if format == "json" else format)
        if format != "json":
            check_schema(schema)
        tokenizer = self._built()
        grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False})
        if problem := LLMatcher.validate_grammar(grammar, tokenizer, limits=LIMITS):
            raise InvalidRequest(f"invalid format: {problem}")
        matcher = LLMatcher(tokenizer, grammar, limits=LIMITS)
        if matcher.is_error():
            raise InvalidRequest(f"invalid format: {matcher.get_error()}")
        return GrammarConstraint(matcher, self._width, free=free, opening=opening)

    def freeform(self, lark: str) -> GrammarConstraint:
        """Return a constraint that holds one answer to a Lark grammar. Raises InvalidRequest when it is none."""
        tokenizer = self._built()
        if problem := LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark), tokenizer, limits=LIMITS):
            raise InvalidRequest(f"invalid grammar: {problem}")
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark), limits=LIMITS)
        if matcher.is_error():
            raise InvalidRequest(f"invalid grammar: {matcher.get_error()}")
        return GrammarConstraint(matcher, self._width, free=False)

    def _built(self) -> LLTokenizer:
        if self._tokenizer is None:
            try:
                self._tokenizer = from_tokenizer(self._source, n_vocab=self._width, eos_token=self._eos)
            except ValueError as error:
                raise Unsupported("structured output needs a fast tokenizer, which this model lacks") from error
        return self._tokenizer


class GrammarConstraint:
    """One answer's state in its grammar: the tokens that it allows next. Used on the compute thread."""

    def __init__(self, matcher: LLMatcher, width: int, *, free: bool, opening: Sequence[int] = ()) -> None:
        self._matcher = matcher
        self._width = width
        self._bits = allocate_token_bitmask(1, width)
        self._free = free
        self._opening = tuple(opening)
        self._to_open = 0

    def mask(self) -> Any:
        """Return a boolean array [width]; None while the model reasons."""
        if self._free:
            return None
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        bits = self._bits[0].view(np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._width].astype(np.bool_)
        if self._opening:
            allowed[self._opening[0]] = True
        return allowed

    def accept(self, token: int, state: str) -> None:
        """Follow a sampled token; `state` is the channel of the answer after it.

        The token that closes a reasoning block belongs to neither channel.
        """
        if self._free:
            self._to_open = max(0, self._to_open - 1)
            self._free = self._to_open > 0 or state != "normal"
            return
        opening, self._opening = self._opening, ()
        if opening and token == opening[0]:
            self._free, self._to_open = True, len(opening) - 1
            return
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Return whether no token can follow."""
        return not self._free and self._matcher.is_stopped()


class ThinkingBudget:
    """Counts the tokens of a thought, and then allows only those that end it. `inner`: the constraint of the answer.

    Used on the compute thread, like the constraint that it wraps.
    """

    def __init__(
        self, tokens: int, ending: Sequence[int], width: int, *, thinks: bool, inner: GrammarConstraint | None = None
    ) -> None:
        """`ending`: the tokens that lead from a thought to the answer; `thinks`: the answer begins with a thought."""
        self._left = tokens
        self._ending = tuple(ending)
        self._width = width
        self._inner = inner
        self._thinks = thinks
        self._forced = 0

    def mask(self) -> Any:
        """Return a boolean array [width]: one token while a thought is being ended, else what the answer allows."""
        if self._thinks and self._left <= 0 and self._forced < len(self._ending):
            allowed = np.zeros(self._width, dtype=np.bool_)
            allowed[self._ending[self._forced]] = True
            return allowed
        return self._inner.mask() if self._inner is not None else None

    def accept(self, token: int, state: str) -> None:
        """Follow a sampled token; `state` is the channel of the answer after it."""
        if self._thinks:
            if self._left > 0:
                self._left -= 1
            else:
                self._forced += 1
        self._thinks = state == "reasoning" or 0 < self._forced < len(self._ending)
        if not self._thinks:
            self._forced = 0  # a second thought is ended at once
        if self._inner is not None:
            self._inner.accept(token, state)

    @property
    def complete(self) -> bool:
        """Return whether no token can follow."""
        return self._inner is not None and self._inner.complete
