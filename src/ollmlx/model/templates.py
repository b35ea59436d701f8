"""Chat templates: turned into Jinja, checked, and rendered. A stranger's is parsed in a helper process only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.helper import run_limited

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE: Final = 256 << 10
"""Characters of a template. The longest of well-known models have about 20,000."""
_GO_FIELD: Final = re.compile(r"\{\{-?\s*(?:if\s+|range\s+|with\s+)?[$.]")
_GO_SIMPLE: Final = re.compile(r"\{\{-?\s*\.(System|Prompt|Response|Suffix)\s*-?\}\}")
_BLOCK_OF_TRANSFORMERS: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A block of training templates. It has no effect on a prompt."""
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""The names that templates have for a turn's reasoning."""
_OPEN_END: Final = "THE ANSWER CONTINUES HERE"


def as_jinja(template: str) -> str:
    """Return the template in Jinja. Jinja is returned unchanged; fields of Go's language without logic are translated.

    Raises Unsupported for any other template in Go's language, InvalidRequest for one that is too long.
    """
    if len(template) > MAX_TEMPLATE:
        raise InvalidRequest(f"the template is longer than {MAX_TEMPLATE >> 10} KiB")
    if not _GO_FIELD.search(template):
        return template
    plain = _GO_SIMPLE.sub(_field, template)
    if _GO_FIELD.search(plain):
        raise Unsupported(
            "the template is written in Go's template language; models on MLX take Jinja templates",
            hint="leave the template out to use the model's own, or translate it to Jinja",
        )
    return plain


def check_template(template: str) -> None:
    """Raise Unsupported or InvalidRequest, with the line, for a template that cannot be parsed. Blocks."""
    run_limited(_parse, as_jinja(template), what="the template")


def render_template(template: str, variables: Mapping[str, Any], *, continue_last: bool = False) -> str:
    """Return the prompt that a Jinja template makes of these variables, among them `messages`. Blocks.

    `continue_last` leaves the last turn open. Raises InvalidRequest with the template's own message when it refuses
    the conversation, LimitExceeded when rendering it takes too much time or memory.
    """
    if len(template) > MAX_TEMPLATE:
        raise InvalidRequest(f"the template is longer than {MAX_TEMPLATE >> 10} KiB")
    return run_limited(_render, template, dict(variables), continue_last, what="the template")


# -- in the helper ---------------------------------------------------------------------------------------------------


def _parse(template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError

    jinja = _BLOCK_OF_TRANSFORMERS.sub("", template)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(jinja)  # noqa: S701 - parsed, never rendered
    except TemplateSyntaxError as error:
        raise InvalidRequest(f"template error: line {error.lineno}: {error.message}") from error


def _render(template: str, variables: dict[str, Any], continue_last: bool) -> str:
    from jinja2 import TemplateError

    turns = [_completed(turn) for turn in variables["messages"]]
    if continue_last and turns:
        turns[-1]["content"] += _OPEN_END
    try:
        text = _compiled(template).render({**variables, "messages": turns})
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(str(error)) from error
    if not continue_last:
        return text
    before, end, _ = text.rpartition(_OPEN_END)
    if not end:
        raise InvalidRequest("it leaves out the last turn, which should be continued")
    return before


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


def _field(match: re.Match[str]) -> str:
    role = {"System": "system", "Prompt": "user"}.get(match.group(1))
    chosen = f"messages | selectattr('role', 'equalto', '{role}') | map(attribute='content') | join('\\n\\n')"
    return "" if role is None else "{{ " + chosen + " }}"
