"""Attack: a template in Go's language recurses, loops, grows or nests without end, or is long and repetitive."""

from __future__ import annotations

import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.gotemplate import GoChatTemplate, execute, parse
from ollmlx.model.templates import MAX_TEMPLATE, check_template, render_template

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("template", "limit"),
    [
        ('{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}', "levels deep"),
        (
            '{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}{{ template "a" }}',
            "deep",
        ),
        ("{{ range 1000000000 }}{{ end }}", "steps"),
        ("{{ range 100000 }}{{ range 100000 }}x{{ end }}{{ end }}", "steps"),
        ("{{ $x := .Prompt }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}", "steps|characters"),
        ('{{ $x := "a" }}{{ range 100 }}{{ $x = printf "%s%s" $x $x }}{{ end }}{{ $x }}', "steps|characters"),
        ('{{ range 400000 }}{{ "' + "x" * 100 + '" }}{{ end }}', "steps|characters"),
        ("{{ range 100000 }}" + "y" * 1000 + "{{ end }}", "characters"),
        ('{{ .Prompt }}{{ printf "%1000000000d" 1 }}', "width"),
        ("{{ index .Messages 99 }}", "out of range"),
        ("{{ .Prompt.Secret }}", "can't evaluate field"),
    ],
)
def test_an_execution_ends_at_a_limit(template: str, limit: str) -> None:
    with pytest.raises(InvalidRequest, match=limit):
        render_template(template, {"messages": HI})


@pytest.mark.parametrize(
    "template",
    [
        "{{ if . }}" * 2000 + "{{ end }}" * 2000,
        "{{ " + "(" * 5000 + "." + ")" * 5000 + " }}",
        "{{ if .A }}x" + "{{ else if .A }}x" * 2000 + "{{ end }}",
        "{{ /* never closed",
        "{{ if .A }}never ended",
        "{{ end }}",
        "{{ $undeclared }}",
        "{{ $x := 1 }}" * 10_000,
        "{{ .A | }}",
        "{{ 99999999999999999999 }}",
        "{{ break }}",
        "{{ call .A }}",
        '{{ define "a" }}1{{ end }}{{ define "a" }}2{{ end }}',
        '{{ "\\ud800" }}{{ .A }}',
    ],
)
def test_a_template_that_cannot_be_is_refused_with_its_line(template: str) -> None:
    with pytest.raises(InvalidRequest, match="line 1"):
        GoChatTemplate(template)


def test_too_long_a_template_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="longer than"):
        check_template("{{ .Prompt }}" + "x" * MAX_TEMPLATE)


def test_long_templates_of_one_kind_of_piece_are_read_once() -> None:
    for piece in ("{{- .A -}}", "{{/* c */}}", "{ x", "{{`a`}}", "\n \n", "{{if 1}}{{end}}"):
        parse(piece * (MAX_TEMPLATE // len(piece)))
    assert execute(parse("a \n" * 80_000 + "{{- 1 }}"), {}).endswith("a1")
