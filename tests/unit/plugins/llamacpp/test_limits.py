"""Schemas and templates that would occupy llama.cpp are refused with the limit; those that people use are not."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx import LimitExceeded
from ollmlx_llamacpp.limits import check_schemas, template_fault

USED = {
    "semver": r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.\d+)*))?$",
    "a name of kubernetes": r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$",
    "an address": r"^((25[0-5]|(2[0-4]|1\d|[1-9]|)\d)\.?){4}$",
    "a mail address": r"^[^@]{1,64}@[a-z.]{1,255}$",
    "a time": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$",
    "a URL": r"^https?://([\w-]+\.)+[\w-]+(/[\w\-./?%&=]*)?$",
    "a long text": r"^.{0,2000}$",
    "brackets": r"^[]\[(]+\(\{2,\}$",
    "no pattern": r"((",
}
HOSTILE = {
    "counted in counted": "^((a{0,100}){0,100}){0,100}$",
    "the same, smaller": "^((a{0,10}){0,10}){0,10}$",
    "nothing, many times": "^(.?.?.?.?.?.?.?.?.?.?){1,20}$",
    "one after another": "^" + ".*" * 60 + "$",
    "endless in endless": "^" + "(" * 8 + "." + "+)" * 8 + "$",
    "long": "(a|b){9999}" * 2,
}


def of(pattern: str) -> list[Any]:
    return [{"type": "object", "properties": {"p": {"type": "string", "pattern": pattern}}}]


@pytest.mark.parametrize("pattern", USED.values(), ids=USED)
def test_patterns_that_people_use_are_passed_on(pattern: str) -> None:
    check_schemas(of(pattern), "the format")


@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE)
def test_patterns_that_occupy_llama_cpp_for_seconds_a_token_are_refused(pattern: str) -> None:
    with pytest.raises(LimitExceeded, match=r"the tool f: .*pattern"):
        check_schemas(of(pattern), "the tool f")


def nested(depth: int) -> list[Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return [schema]


@pytest.mark.parametrize(
    ("schemas", "limit"),
    [
        ([{"properties": {f"p{i}": {} for i in range(400)}}], "200 in one object"),
        ([{"anyOf": [{"properties": {f"p{i}": {} for i in range(100)}}] * 5}], "200 in one object"),
        ([{"properties": {f"p{i}": {} for i in range(400)}, "required": [f"q{i}" for i in range(400)]}], "200 in one"),
        ([{"anyOf": [{"pattern": "(a{1,20}b?){1,10}"}] * 20}], "more than 2,000 places"),
        ([{"anyOf": [{}] * 20_000}], "10,000 parts"),
        (nested(200), "nested at most 100 times"),
    ],
    ids=["properties", "many objects", "others are required", "many patterns", "parts", "depth"],
)
def test_schemas_that_take_long_to_compile_are_refused(schemas: list[Any], limit: str) -> None:
    with pytest.raises(LimitExceeded, match=limit):
        check_schemas(schemas, "the format")


def test_properties_that_are_required_and_values_that_are_no_schemas_do_not_count() -> None:
    names = [f"p{i}" for i in range(1000)]
    check_schemas([{"properties": {name: {} for name in names}, "required": names}], "the format")
    check_schemas([{"enum": [{"pattern": HOSTILE["long"]}], "default": nested(200)}], "the format")


def test_a_template_that_cannot_render_the_simplest_conversation_is_found() -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert template_fault("{{ messages[0].content }}") is None
    assert template_fault("{{ raise_exception('no') }}") is None
    assert template_fault(loops) == "the template takes more than 2 s of CPU time to process"
    assert (
        template_fault("{% if tools %}{{ 'x' * 9999999 }}{% endif %}") == "the template has a result of more than 8 MiB"
    )
