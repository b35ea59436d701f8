"""Conversations to text, through the chat template of the model or of the request: strangers' both, and limited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import PreTrainedTokenizerBase  # type: ignore[attr-defined]  # transformers has it

from ollmlx import LimitExceeded, passes_tools, render_template
from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.runner.kit import chat_turn, knows_effort, later_systems_into_user, offered_tools, template_thinking
from ollmlx.types import GenerateRequest, Message

Apply = Callable[[list[dict[str, Any]], dict[str, Any]], str]
Turn = Callable[[Message, str], dict[str, Any]]
"""A function that returns a message as the chat template, whose source it gets, expects it."""
_REFUSALS: Final = (InvalidRequest, TemplateError, ValueError, TypeError, KeyError)
"""Errors that a template, or transformers for it, raises when it refuses a conversation."""
_SYSTEM: Final = ("system", "developer")


def text_turn(message: Message, source: str) -> dict[str, Any]:
    return chat_turn(message)


class ChatTemplate:
    """The template of one model. A request may bring its own."""

    def __init__(self, tokenizer: Any, model_name: str, turn: Turn = text_turn) -> None:
        self._tokenizer = tokenizer
        self._turn = turn
        self._model_name = model_name

    @property
    def takes_tools(self) -> bool:
        """Return whether the model's template passes tools to the model."""
        source = self._source()
        return "tools" in source if source else bool(self._tokenizer.has_tool_calling)

    def knows_effort(self, request: GenerateRequest) -> bool:
        """Return whether the template of this request tells the model how much to think."""
        return knows_effort(request.template or self._source())

    def warm_up(self) -> None:
        """Start the helper that renders the model's template. A request is told what the template refuses."""
        message = Message(role="user", content="hi")
        with suppress(InvalidRequest):
            self.render((message,), GenerateRequest(messages=(message,)))

    def _source(self) -> str:
        source = getattr(self._tokenizer, "chat_template", None)
        if isinstance(source, dict):
            source = source.get("default") or next(iter(source.values()), "")
        return source if isinstance(source, str) else ""

    def render(self, messages: Sequence[Message], request: GenerateRequest, *, answer: bool = True) -> str:
        """Return the text of the prompt for these messages, with the tools and the template of the request.

        `answer` opens the assistant's turn at the end; `continue_last` leaves the last turn open instead. Raises
        InvalidRequest with the template's own message when it refuses the conversation, Unsupported for tools that it
        would drop.
        """
        template = request.template
        tools = offered_tools(request.tools, request.tool_choice)
        if tools and not (passes_tools(template) if template else self.takes_tools):
            raise Unsupported(f"{self._model_name} does not support tools")
        if not template and not self._tokenizer.has_chat_template:
            return "\n\n".join(message.content for message in messages)
        kwargs: dict[str, Any] = {
            "tools": tools or None,
            "add_generation_prompt": answer and not request.continue_last,
            "continue_final_message": request.continue_last,
            **template_thinking(request.think),
        }
        apply = self._applier(template) if template else self._own()
        refusal: Exception | None = None
        for version in _versions(messages):
            try:
                return apply([self._turn(message, template or self._source()) for message in version], kwargs)
            except LimitExceeded:
                raise
            except _REFUSALS as error:
                refusal = error
            if "system" not in str(refusal).lower():
                break
        raise InvalidRequest(
            f"the chat template of {self._model_name} refuses this conversation: {refusal}"
        ) from refusal

    def _own(self) -> Apply:
        """Return the function that renders with the model's template, or with the code that it has instead of one."""
        tokenizer = self._tokenizer
        if _has_renderer(tokenizer):
            return lambda turns, variables: str(tokenizer.apply_chat_template(turns, tokenize=False, **variables))

        def apply(turns: list[dict[str, Any]], variables: dict[str, Any]) -> str:
            source = tokenizer.get_chat_template(None, variables["tools"])
            defaults = {"enable_thinking": tokenizer.has_thinking}
            return self._applier(source, f"the chat template of {self._model_name}")(turns, {**defaults, **variables})

        return apply

    def _applier(self, template: str, what: str = "the template") -> Apply:
        """Return the function that renders with a template, in a helper."""
        special = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}

        def apply(turns: list[dict[str, Any]], variables: dict[str, Any]) -> str:
            last = variables["continue_final_message"]
            return render_template(template, {**special, **variables, "messages": turns}, continue_last=last, what=what)

        return apply


def _has_renderer(tokenizer: Any) -> bool:
    """Return whether code of mlx-lm or of the tokenizer's class makes the prompts, instead of a template."""
    own = getattr(tokenizer, "_tokenizer", tokenizer)
    renders = type(own).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template
    return renders or getattr(tokenizer, "_chat_template", None) is not None


def _versions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Yield the messages as they are, and then for templates that take one system message only, or none."""
    yield messages
    if any(message.role in _SYSTEM for message in messages[1:]):
        yield later_systems_into_user(messages)
    if any(message.role in _SYSTEM for message in messages):
        yield _system_into_user(messages)


def _system_into_user(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(message.content for message in messages if message.role in _SYSTEM)
    rest = [message for message in messages if message.role not in _SYSTEM]
    for index, message in enumerate(rest):
        if message.role == "user":
            rest[index] = message.model_copy(update={"content": f"{system}\n\n{message.content}"})
            return rest
    return [Message(role="user", content=system), *rest]
