"""The state of one request on the compute thread: its tokens, its cache, its limits and its events so far."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ollmlx.errors import OllmlxError
from ollmlx.types import Done, Event, GenerateRequest, Options, Prefill, TokenLogprob
from ollmlx_mlx.engine.batching.grammar import GrammarConstraint, ThinkingBudget
from ollmlx_mlx.engine.batching.sampling import PenaltyRules, Spell
from ollmlx_mlx.engine.prefix_cache import common_prefix
from ollmlx_mlx.engine.text.answer import AnswerParser
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.text.prompt import EncodedPrompt

Item = Event | OllmlxError
Sink = Callable[[Sequence[Item]], None]


def draw(seed: int, position: int) -> float:
    """Return the random number in [0, 1) for the answer's token at this position.

    It depends on nothing else: other requests and restarts do not change it. Seeds are taken modulo 2**64.
    """
    seed &= (1 << 64) - 1
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") >> 40) / (1 << 24)


@dataclass(eq=False)
class GenerationState:
    """State of one request. Only the compute thread uses it, except for `cancelled`, which any thread may set.

    `arrival`: its number among all requests; `limit`: tokens the answer may have; `spell` returns the text of tokens,
    for logprobs; `tokens`: prompt, then answer; `fed`: how many of them are in `cache`;
    `owner`: the only one with whom prefixes are shared.
    """

    prompt: EncodedPrompt
    answer: AnswerParser
    sink: Sink
    options: Options
    penalties: PenaltyRules
    seed: int
    limit: int
    eos: frozenset[int]
    shift: bool
    top_logprobs: int | None
    constraint: GrammarConstraint | ThinkingBudget | None
    spell: Spell
    owner: str = ""
    tokens: list[int] = field(init=False)
    cache: list[Any] | None = None
    fed: int = 0
    cached: int = 0
    draft_cache: list[Any] | None = None
    draft_fed: int = 0
    sampled: list[int] = field(default_factory=list)
    generated: int = 0
    checkpoints: set[int] = field(default_factory=set)
    arrival: int = 0
    admitted: bool = False
    cancelled: bool = False
    shifting: bool = False
    finished: Literal["stop", "length"] | None = None
    ended: bool = False
    items: list[Item] = field(default_factory=list)
    _started: int = field(default_factory=time.monotonic_ns)
    _first_token: int | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt.tokens)

    @classmethod
    def of(
        cls,
        request: GenerateRequest,
        prompt: EncodedPrompt,
        tokenizer: TokenizerWrapper,
        detokenizers: DetokenizerFactory,
        sink: Sink,
        *,
        vocabulary: int,
        constraint: GrammarConstraint | ThinkingBudget | None = None,
    ) -> GenerationState:
        """Return the state of a new request. `vocabulary`: logits per token."""
        options = request.options
        return cls(
            prompt,
            prompt.parser(request, tokenizer, detokenizers),
            sink,
            options,
            penalties=PenaltyRules.of(options, prompt.context, vocabulary),
            seed=options.seed if options.seed >= 0 else secrets.randbits(63),
            limit=options.num_predict if options.num_predict >= 0 else prompt.context - len(prompt.tokens),
            eos=frozenset(tokenizer.eos_token_ids),
            shift=request.shift and not prompt.keys,
            top_logprobs=request.top_logprobs,
            constraint=constraint,
            spell=detokenizers.decode,
            owner=request.cache_owner,
        )

    @property
    def keys(self) -> list[int]:
        """The tokens as the prefix cache knows them: those of a picture tell one picture from another."""
        keys = self.prompt.keys
        return [*keys, *self.tokens[len(keys) :]] if keys else self.tokens

    def shared_with(self, other: GenerationState) -> int:
        """Return the tokens at the beginning that both have; none of another owner's."""
        return common_prefix(self.keys, other.keys) if self.owner == other.owner else 0

    @property
    def remaining(self) -> int:
        """Prompt tokens to compute before decoding can start. The last token is not counted: it starts decoding."""
        return max(0, len(self.tokens) - 1 - self.fed)

    def draw(self) -> float:
        """Return the random number for the token that is sampled after the first `fed` ones."""
        # Unread tokens count: the host may be one token behind the device.
        return draw(self.seed, self.generated + self.fed - len(self.tokens))

    def report_prefill(self) -> None:
        """Add an event with the progress of the prompt, but not again after a context shift."""
        if self.generated:
            return
        total = len(self.prompt.tokens)
        self.items.append(
            Prefill(done=min(self.fed, total), total=total, cached=self.cached, dropped=self.prompt.dropped)
        )

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Add a sampled token: its events, or the end of the answer."""
        if self.finished is not None or self.shifting:
            return
        if self._first_token is None:
            self._first_token = time.monotonic_ns()
        self.tokens.append(token)
        self.generated += 1
        if token in self.eos:
            self.finished = "stop"
            return
        self.sampled.append(token)
        self.items += self.answer.add(token, logprob)
        if self.constraint is not None:
            self.constraint.accept(token, self.answer.state)
        self._check_end()

    def _check_end(self) -> None:
        done = self.constraint is not None and self.constraint.complete
        if self.answer.finished or self.answer.runaway or done:
            self.finished = "stop"
        elif self.generated >= self.limit:
            self.finished = "length"
        elif len(self.tokens) >= self.prompt.context:
            if self.shift:
                self.shifting = True
            else:
                self.finished = "length"

    def last_by_length(self) -> bool:
        """Return whether the next token is the last one allowed, whatever it is."""
        return self.generated + 1 >= self.limit or (not self.shift and len(self.tokens) + 1 >= self.prompt.context)

    def drop_oldest(self) -> None:
        """Shift the context: drop the older half of the tokens after the first `keep`. The rest is computed again."""
        keep = min(max(0, self.options.num_keep), self.prompt.context // 2)
        rest = self.tokens[keep:]
        self.tokens = self.tokens[:keep] + rest[len(rest) // 2 :]
        self.shifting = False
        self.restart()

    def restart(self) -> None:
        """Give up what is computed of the tokens, not the tokens: all of them are computed again, or found cached."""
        self.fed, self.cache = 0, None
        self.draft_cache, self.draft_fed = None, 0
        self.checkpoints.clear()

    def end(self) -> None:
        """End the answer: pass on the text that was held back, then Done."""
        assert self.finished is not None
        self.items += self.answer.end()
        now = time.monotonic_ns()
        first = self._first_token or now
        self.items.append(
            Done(
                reason=self.finished,
                prompt_tokens=len(self.prompt.tokens),
                cached_tokens=self.cached,
                generated_tokens=self.generated,
                prefill_ns=first - self._started,
                decode_ns=now - first,
                total_ns=now - self._started,
                dropped=self.prompt.dropped,
                stop=self.answer.stop,
                context=(*self.prompt.tokens, *self.sampled),
            )
        )
        self.ended = True
        self.flush()

    def fail(self, error: OllmlxError) -> None:
        if not self.ended:
            self.items.append(error)
            self.ended = True
        self.flush()

    def flush(self) -> None:
        """Pass the collected items to the event loop."""
        if self.items:
            items, self.items = self.items, []
            self.sink(items)
