"""Chat templates, in Jinja or in Go's language: checked, and rendered, in a helper process only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ollmlx.errors import InvalidRequest
from ollmlx.gotemplate import GoChatTemplate
from ollmlx.helper import LimitExceeded, run_limited

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE: Final = 256 << 10
"""Characters of a template. The longest of well-known models have about 20,000."""
_GO: Final = re.compile(
    r"\{\{-?\s*(?:(?:if|range|with|else\s+if)\s+)?(?:(?:and|or|not|eq|ne|lt|gt|len|index|slice|json)\s+|\()*[$.]|\{\{-?\s*end\s*-?\}\}"
)
_GO_TOOLS: Final = re.compile(r"\{\{[^{}]*\.Tools\b")
_BLOCK_OF_TRANSFORMERS: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A block of training templates. It has no effect on a prompt."""
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""The names that templates have for a turn's reasoning."""
_OPEN_END: Final = "THE ANSWER CONTINUES HERE"


def is_go_template(template: str) -> bool:
    """Return whether a template is written in Go's language, as those of Ollama's models are."""
    return _GO.search(template) is not None


def passes_tools(template: str) -> bool:
    """Return whether a template tells the model about tools."""
    return bool(_GO_TOOLS.search(template)) if is_go_template(template) else "tools" in template


def check_template(template: str) -> None:
    """Raise InvalidRequest, with the line, for a template that cannot be parsed. Blocks."""
    _check_length(template)
    run_limited(_parse, template, what="the template")


def render_template(
    template: str, variables: Mapping[str, Any], *, continue_last: bool = False, what: str = "the template"
) -> str:
    """Return the prompt that a template makes of these variables, among them `messages`. Blocks.

    Variables are named as in Jinja; `prompt` and `suffix` instead of `messages` ask Go's for the text between them.
    `continue_last` leaves the last turn open; Go's always do, if it is the assistant's. Raises InvalidRequest with the
    template's own message when it refuses the conversation, LimitExceeded when rendering it takes too much time or
    memory; `what` is its name there.
    """
    _check_length(template, what)
    if is_go_template(template):
        return run_limited(_render_go, template, dict(variables), what=what)
    return run_limited(_render, template, dict(variables), continue_last, what=what)


def _check_length(template: str, what: str = "the template") -> None:
    if len(template) > MAX_TEMPLATE:
        raise LimitExceeded(f"{what} is longer than {MAX_TEMPLATE >> 10} KiB")


# -- in the helper ---------------------------------------------------------------------------------------------------


def _parse(template: str) -> None:
    if is_go_template(template):
        _parsed_go(template)
        return
    from jinja2 import Environment, TemplateSyntaxError

    jinja = _BLOCK_OF_TRANSFORMERS.sub("", template)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(jinja)  # noqa: S701 - parsed, never rendered
    except TemplateSyntaxError as error:
        raise InvalidRequest(f"template error: line {error.lineno}: {error.message}") from error


def _render_go(template: str, variables: dict[str, Any]) -> str:
    parsed = _parsed_go(template)
    if "suffix" in variables:
        return parsed.fill(variables["prompt"], variables["suffix"])
    think = variables.get("reasoning_effort", variables.get("enable_thinking"))
    return parsed.render(variables["messages"], tools=variables.get("tools") or (), think=think)


@lru_cache(maxsize=16)
def _parsed_go(template: str) -> GoChatTemplate:
    return GoChatTemplate(template)


def _render(template: str, variables: dict[str, Any], continue_last: bool) -> str:
    from jinja2 import TemplateError

    turns = [_completed(turn) for turn in variables["messages"]]
    if continue_last and turns:
        turns[-1]["content"] = _opened(turns[-1]["content"])
    try:
        text = _compiled(template).render({**variables, "messages": turns})
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRequest(str(error)) from error
    if not continue_last:
        return text
    before, end, _ = text.rpartition(_OPEN_END)
    if not end:
        raise InvalidRequest("it leaves out the last turn, which should be continued")
    return before


def _opened(content: Any) -> Any:
    """Return the content of a turn, a text or parts, with the mark at its end."""
    if isinstance(content, str):
        return content + _OPEN_END
    return [*content[:-1], {**content[-1], "text": content[-1].get("text", "") + _OPEN_END}]


def _completed(turn: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = next((turn[name] for name in _REASONING if turn.get(name)), None)
    return {**turn, **(dict.fromkeys(_REASONING, reasoning) if reasoning else {})}


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    """Compile a template in the environment that chat templates are written for: transformers'."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment.from_string(_BLOCK_OF_TRANSFORMERS.sub("", template))


def _tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """Return a value as JSON, without the escapes that Jinja's own filter makes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
