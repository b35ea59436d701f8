"""Chat templates as people write them: Jinja, or the simplest of Ollama's, which are in Go's language. Pure."""

from __future__ import annotations

import re

from ollmlx.errors import InvalidRequest, Unsupported

_GO_FIELD = re.compile(r"\{\{-?\s*(?:if\s+|range\s+|with\s+)?[$.]")
_GO_SIMPLE = re.compile(r"\{\{-?\s*\.(System|Prompt|Response|Suffix)\s*-?\}\}")
_BLOCK_OF_TRANSFORMERS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks what a model is trained on; says nothing when a prompt is made."""


def as_jinja(template: str) -> str:
    """The template in Jinja: Go's fields without logic are translated, Jinja is left as it is.

    Raises Unsupported for any other template in Go's language.
    """
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
    """Raise Unsupported or InvalidRequest for a template that no conversation can be put through, with the line."""
    from jinja2 import Environment, TemplateSyntaxError

    jinja = _BLOCK_OF_TRANSFORMERS.sub("", as_jinja(template))
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(jinja)  # noqa: S701 - parsed, never rendered
    except TemplateSyntaxError as error:
        raise InvalidRequest(f"template error: line {error.lineno}: {error.message}") from error


def _field(match: re.Match[str]) -> str:
    role = {"System": "system", "Prompt": "user"}.get(match.group(1))
    if role is None:
        return ""
    return "{{ messages | selectattr('role', 'equalto', '" + role + "') | map(attribute='content') | join('\\n\\n') }}"
