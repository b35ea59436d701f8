"""From a request to an encoded prompt: token ids within the context length, and the format of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ollmlx import is_go_template, render_template
from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.protocol import TokenizeRequest, Tokens
from ollmlx.runner.kit import (
    bounded_text,
    call_schema,
    context_exceeded,
    cut_tokens,
    find_insert_markers,
    fit_messages,
    freeform_call,
    offered_tools,
    thinking_budget,
    truncation_target,
)
from ollmlx.types import GenerateRequest, Message
from ollmlx_mlx.engine.prefix_cache import common_prefix
from ollmlx_mlx.engine.text.answer import AnswerParser, Markers, is_harmony, markers_for
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.text.template import ChatTemplate, Turn, text_turn
from ollmlx_mlx.engine.text.tools import forced_call_format, tool_reader


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


@dataclass(frozen=True)
class EncodedPrompt:
    """The token ids of a prompt, and how to read the answer.

    `dropped`: tokens left out so that the prompt fits; `context`: the limit for prompt and answer together;
    `continues`: the answer continues this text, so that a leading space matters; `boundary`: the number of tokens with
    which the next turn of this conversation begins; `forced`: the JSON schema of the call that the answer must be,
    or the grammar of a freeform tool's text;
    `thinking`: the tokens that a thought may have; `keys`: of a prompt with pictures, the tokens by which the prefix
    cache knows it; `pictures`: what the model's `Forward` needs of them; `whole`: the number of first tokens that one
    call must compute, because they see one another.
    """

    tokens: tuple[int, ...]
    dropped: int
    context: int
    markers: Markers
    harmony: bool = False
    continues: bool = False
    boundary: int = 0
    forced: dict[str, Any] | str | None = None
    thinking: int | None = None
    keys: tuple[int, ...] = ()
    pictures: Any = None
    whole: int = 0

    def parser(self, request: GenerateRequest, tokenizer: Any, detokenizers: DetokenizerFactory) -> AnswerParser:
        return AnswerParser(
            detokenizers(self.tokens if self.continues or request.continue_last else ()),
            request.options.stop,
            self.markers,
            (lambda text: [freeform_call(request, text)])
            if isinstance(self.forced, str)
            else tool_reader(tokenizer, request.tools, harmony=self.harmony),
            show_thinking=request.think is not False,
            parallel_tools=request.parallel_tool_calls,
        )


def encode_text(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """Return the ids of a text, with the special tokens that the model expects, unless it has them already."""
    bos = tokenizer.bos_token
    return list(tokenizer.encode(bounded_text(text), add_special_tokens=special and not (bos and text.startswith(bos))))


def encode_texts(tokenizer: Any, texts: Sequence[str], special: bool) -> list[list[int]]:
    """Return the ids of several texts."""
    return [encode_text(tokenizer, text, special=special) for text in texts]


class PromptEncoder:
    """Encodes prompts for one model. Runs outside the compute thread, one call at a time.

    `boundaries`: whether to find out where the next turn branches off. A cache that cannot be shortened needs it.
    """

    sees = False
    """True where pictures can be part of a prompt."""

    def __init__(
        self,
        tokenizer: Any,
        model_name: str,
        context_length: int,
        *,
        boundaries: bool = False,
        turn: Turn = text_turn,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, model_name, turn)
        self._model_name = model_name
        self._context_length = context_length
        self._boundaries = boundaries
        self._harmony = is_harmony(tokenizer)
        self._insert = InsertTokens.of(tokenizer)

    def build(self, request: GenerateRequest) -> EncodedPrompt:
        """Encode the prompt of a request. Raises InvalidRequest, Unsupported, ContextExceeded."""
        if any(message.images for message in request.messages) and not self.sees:
            raise Unsupported(f"{self._model_name} does not support images")
        context = min(request.options.num_ctx or self._context_length, self._context_length)
        if request.messages:
            return self._conversation(request, context)
        return self._text(request, context)

    def try_template(self, request: GenerateRequest) -> None:
        """Render the conversation once with the request's own template. Raises as `build`. Safe in any thread."""
        if request.messages:
            self._template.render(request.messages, request)

    def warm_up(self) -> None:
        """Start what renders conversations."""
        self._template.warm_up()

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text, with the special tokens that the model expects before it."""
        return encode_text(self._tokenizer, text)

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the ids of a text, or of a conversation through the chat template and the text that it became."""
        if not request.messages:
            return Tokens(tokens=tuple(self.encode_text(request.text or "")))
        asked = GenerateRequest(
            messages=request.messages, tools=request.tools, template=request.template, think=request.think
        )
        text = self._template.render(request.messages, asked)
        return Tokens(tokens=tuple(self._encode(text, asked, asked.messages)), prompt=text)

    def _encode(self, text: str, request: GenerateRequest, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the text that these messages became, after the ids in `request.context`."""
        if not self._tokenizer.has_chat_template and not request.template:
            ids = self.encode_text(text)
        else:
            ids = list(self._tokenizer.encode(bounded_text(text), add_special_tokens=False))
        return [*request.context, *ids]

    def _conversation(self, request: GenerateRequest, context: int) -> EncodedPrompt:
        if request.suffix:
            raise InvalidRequest("suffix goes with a prompt, not with messages")
        request, opening, forced = self._must_call(request)
        tail = ""

        def encode(messages: Sequence[Message]) -> list[int]:
            nonlocal tail
            text = self._template.render(messages, request) + opening
            tail = text[-200:]
            return self._encode(text, request, messages)

        if request.truncate:
            target = truncation_target(context, request.options.num_predict)
            tokens, dropped = fit_messages(request.messages, encode, context - 1, target)
        else:
            tokens, dropped = encode(request.messages), 0
        boundary = 0
        if self._boundaries and not request.continue_last and not dropped:
            unopened = self._template.render(request.messages, request, answer=False)
            boundary = common_prefix(tokens, self._encode(unopened, request, request.messages))
        prompt = self._fitted(request, tokens, dropped, context, tail=tail, boundary=boundary)
        if forced is None:
            return prompt
        markers = Markers({}, "tool") if isinstance(forced, str) else replace(prompt.markers, initial="tool")
        return replace(prompt, forced=forced, markers=markers)

    def _must_call(self, request: GenerateRequest) -> tuple[GenerateRequest, str, dict[str, Any] | str | None]:
        """Return the request, the beginning of the answer and what the rest must match, when a tool must be called."""
        tools = offered_tools(request.tools, request.tool_choice)
        if not tools or request.tool_choice in ("auto", "none"):
            return request, "", None
        opening, arguments = forced_call_format(self._tokenizer, harmony=self._harmony)
        if request.grammar:
            return request.model_copy(update={"think": False}), opening if self._harmony else "", request.grammar
        return request.model_copy(update={"think": False}), opening, call_schema(tools, arguments)

    def _text(self, request: GenerateRequest, context: int) -> EncodedPrompt:
        assert request.prompt is not None
        bounded_text(request.prompt + (request.suffix or ""))
        if request.suffix and is_go_template(request.template or "") and ".Suffix" in (request.template or ""):
            filled = {"prompt": request.prompt, "suffix": request.suffix}
            text = render_template(request.template or "", filled)
            tokens = list(self._tokenizer.encode(text, add_special_tokens=False))
        elif request.suffix:
            if self._insert is None:
                raise Unsupported(f"{self._model_name} does not support insert")
            tokens = self._insert.prompt(self._tokenizer, request.prompt, request.suffix)
        elif request.context:
            tokens = list(self._tokenizer.encode(request.prompt, add_special_tokens=False))
        else:
            tokens = self.encode_text(request.prompt)
        return self._fitted(
            request, [*request.context, *tokens], 0, context, tail=request.prompt[-200:], boundary=0, continues=True
        )

    def _fitted(
        self,
        request: GenerateRequest,
        tokens: list[int],
        dropped: int,
        context: int,
        *,
        tail: str,
        boundary: int,
        continues: bool = False,
    ) -> EncodedPrompt:
        self._check_ids(tokens)
        if len(tokens) > context - 1:
            if not request.truncate:
                raise context_exceeded(len(tokens), context - 1)
            target = min(truncation_target(context, request.options.num_predict), max(1, context - 1))
            cut = cut_tokens(tokens, target, request.options.num_keep)
            dropped, tokens, boundary = dropped + len(tokens) - len(cut), cut, 0
        tools = bool(request.tools) and request.tool_choice != "none"
        return EncodedPrompt(
            tokens=tuple(tokens),
            dropped=dropped,
            context=context,
            markers=markers_for(
                self._tokenizer, tools=tools, prompt_tail=tail if not continues else "", harmony=self._harmony
            ),
            harmony=self._harmony,
            continues=continues,
            boundary=boundary,
            thinking=thinking_budget(request, knows_effort=self._template.knows_effort(request)),
        )

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise InvalidRequest("the prompt is empty")
        size = len(self._tokenizer)
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise InvalidRequest(f"context holds {wrong}, which is not a token of {self._model_name} (0 to {size - 1})")
