"""Modelfiles in Ollama's grammar, and the chat templates in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest
from ollmlx.model.modelfile import parse_modelfile
from ollmlx.model.templates import check_template, is_go_template, passes_tools, render_template

WHOLE = '''
# a comment
from llama3.2:3b
PARAMETER temperature 0.5
parameter stop "<|end|>"
PARAMETER stop User:
SYSTEM """You are Mario.
# not a comment
FROM here on, sing."""
TEMPLATE "one
two"
MESSAGE user Hello there
MESSAGE assistant """It's me,
Mario!"""
LICENSE MIT
'''


def test_every_kind_of_value_is_read() -> None:
    read = parse_modelfile(WHOLE)
    assert read.values("from") == ("llama3.2:3b",)
    assert read.keyed("parameter") == (("temperature", "0.5"), ("stop", "<|end|>"), ("stop", "User:"))
    assert read.last("system") == "You are Mario.\n# not a comment\nFROM here on, sing."
    assert read.last("template") == "one\ntwo"
    assert read.keyed("message") == (("user", "Hello there"), ("assistant", "It's me,\nMario!"))
    assert read.last("license") == "MIT"
    assert read.last("adapter") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no FROM line"),
        ("SYSTEM hi", "no FROM line"),
        ("FROM a\nBOGUS b", r"\(line 2\): command must be one of \"from\""),
        ("FROM a\nMESSAGE robot hi", r"\(line 2\): message role must be one of"),
        ('FROM a\n\nSYSTEM """never', r"\(line 3\): unexpected end of file"),
        ("FROM", r"\(line 1\): FROM needs a value"),
        ("FROM a\nPARAMETER seed", r"\(line 2\): PARAMETER needs a value"),
    ],
)
def test_a_fault_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        parse_modelfile(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse_modelfile(text).values("from")


@given(st.text(st.characters(blacklist_characters='"', blacklist_categories=("C", "Zl", "Zp")), max_size=80))
def test_a_fenced_value_is_given_back_as_it_is(value: str) -> None:
    assert parse_modelfile(f'FROM a\nSYSTEM """{value}"""').last("system") == value


JINJA = "{% for message in messages %}{{ message.content }}{% if loop.first %}{% break %}{% endif %}{% endfor %}"
GO = "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"


@pytest.mark.parametrize(
    "template", ["", "plain", JINJA, "{%- generation -%}{{ x }}{% endgeneration %}", "{{ .Prompt }}"]
)
def test_a_usable_template_is_accepted(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% bad %}", "template error: line 1: Encountered unknown tag 'bad'"),
        ("one\n{% if x %}", "template error: line 2: Unexpected end of template"),
        ("{{ x", "template error: line 1: unexpected end of template"),
    ],
)
def test_a_template_that_does_not_parse_is_refused_with_its_line(template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_template(template)


def test_a_template_in_go_is_rendered_with_the_conversation() -> None:
    check_template(GO)
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    simple = "<s>{{ .System }}<u>{{- .Prompt }}<a>{{ .Response }}</a>"
    assert render_template(simple, {"messages": turns}) == "<s>be brief<u>hi<a>"


@pytest.mark.parametrize(
    ("template", "go", "tools"),
    [
        ("{{ messages[0].content }}", False, False),
        ("{%- for m in messages %}{{ m['role'] }}{%- endfor %}{{ tools }}", False, True),
        ("{{ .Prompt }} with tools", True, False),
        ("{{- if .System }}x{{ end }}", True, False),
        ("{{- range $i, $m := .Messages }}{{ end }}", True, False),
        ('{{- if and .Tools (eq .Role "user") }}{{- end }}', True, True),
        ("", False, False),
    ],
)
def test_templates_of_both_languages_are_told_apart(template: str, go: bool, tools: bool) -> None:
    assert (is_go_template(template), passes_tools(template)) == (go, tools)


def test_a_fault_in_a_go_template_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidRequest, match="line 2: function not defined: 'shell'"):
        check_template("{{ .Prompt }}\n{{ shell }}")
