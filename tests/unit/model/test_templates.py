"""Chat templates: Jinja as it is, Ollama's simplest ones translated, the rest refused before anybody chats."""

from __future__ import annotations

import pytest
from jinja2 import Environment

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.model.templates import as_jinja, check_template

JINJA = "{% for message in messages %}{{ message.content }}{% if loop.first %}{% break %}{% endif %}{% endfor %}"
GO = "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"


@pytest.mark.parametrize(
    "template", ["", "plain", JINJA, "{%- generation -%}{{ x }}{% endgeneration %}", "{{ .Prompt }}"]
)
def test_a_template_that_can_be_used_is_taken(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% bad %}", "template error: line 1: Encountered unknown tag 'bad'"),
        ("one\n{% if x %}", "template error: line 2: Unexpected end of template"),
        ("{{ x", "template error: line 1: unexpected end of template"),
    ],
)
def test_what_does_not_parse_is_told_with_its_line(template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_template(template)


def test_gos_logic_is_refused_with_what_to_do() -> None:
    with pytest.raises(Unsupported, match="Go's template language") as refused:
        check_template(GO)
    assert refused.value.hint == "leave the template out to use the model's own, or translate it to Jinja"


def test_gos_fields_become_what_they_stand_for() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    made = Environment(autoescape=False).from_string(as_jinja("<s>{{ .System }}<u>{{- .Prompt }}<a>{{ .Response }}"))
    assert made.render(messages=messages) == "<s>be brief<u>hi<a>"
    assert as_jinja(JINJA) == JINJA
