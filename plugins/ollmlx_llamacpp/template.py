"""Chat templates that a request or a Modelfile brings: Jinja only, rendered here in a sandbox.

llama.cpp takes a template only while it loads; the file's own is rendered by llama.cpp itself.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest

_GO = re.compile(
    r"\{\{-?\s*(?:(?:if|range|with|else\s+if)\s+)?(?:and\s+|or\s+|not\s+|eq\s+|\()*[$.]|\{\{-?\s*end\s*-?\}\}"
)


def usable(template: str | None) -> bool:
    """Whether it is Jinja. Templates in Go's language, as Ollama's models have them, give way to the file's own."""
    return bool(template) and not _GO.search(template or "")


def render(template: str, turns: list[dict[str, Any]], request: GenerateRequest, model_name: str) -> str:
    """The prompt. Raises InvalidRequest with the template's own words when it refuses the conversation."""
    last = turns[-1]["content"] if request.continue_last and turns else None
    think = {} if request.think is None else {"enable_thinking": bool(request.think)}
    try:
        text = _compiled(template).render(
            messages=turns[:-1] if last is not None else turns,
            tools=list(request.tools) or None,
            add_generation_prompt=True,
            bos_token="",
            eos_token="",
            **think,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(f"the chat template of {model_name} refuses this conversation: {error}") from error
    return text + (last or "")


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> None:
    raise TemplateError(message)
