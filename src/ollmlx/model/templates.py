"""Chat templates: Jinja, and the simplest of Ollama's, which are written in Go's template language. Pure."""

from __future__ import annotations

import re

from ollmlx.errors import InvalidRequest, Unsupported

_GO_FIELD = re.compile(r"\{\{-?\s*(?:if\s+|range\s+|with\s+)?[$.]")
_GO_SIMPLE = re.compile(r"\{\{-?\s*\.(System|Prompt|Response|Suffix)\s*-?\}\}")
_BLOCK_OF_TRANSFORMERS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A block of training templates. It has no effect on a prompt."""


def as_jinja(template: str) -> str:
    """Return the template in Jinja. Jinja is returned unchanged; fields of Go's language without logic are translated.

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
    """Raise Unsupported or InvalidRequest, with the line, for a template that cannot be parsed."""
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
