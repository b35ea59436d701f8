"""Faults that no single value has: names that are none, two spellings of one model, aliases that loop. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.model.names import ModelName
from ollmlx.settings.errors import likely_key, plugin_table_fault, sentence
from ollmlx.settings.keys import KeyPath
from ollmlx.settings.model import Settings
from ollmlx.types import Options

Meaning = tuple[KeyPath, str, str]
"""(path, problem, code)"""


def faults_of_meaning(settings: Settings) -> list[Meaning]:
    """Every fault that shows only when the values are put together."""
    return [*_plugin_tables(settings), *_names(settings), *_parameters(settings), *_loops(settings)]


def _plugin_tables(settings: Settings) -> Iterator[Meaning]:
    for name, value in (settings.plugins.model_extra or {}).items():
        if problem := plugin_table_fault(name, value):
            yield ("plugins", name), problem, "CFG003"


def _names(settings: Settings) -> Iterator[Meaning]:
    for section, table in (("models", settings.models), ("aliases", settings.aliases)):
        seen: dict[ModelName, str] = {}
        for written in table:
            name, problem = _parsed(written)
            if name is None:
                yield (section, written), problem, "CFG004"
            elif name in seen:
                yield (section, written), f"is the same model name as {seen[name]!r}", "CFG004"
            else:
                seen[name] = written
    for written, target in settings.aliases.items():
        if _parsed(target)[0] is None:
            yield ("aliases", written), _parsed(target)[1], "CFG004"
    for written, model in settings.models.items():
        if model.from_ is not None and _parsed(model.from_)[0] is None:
            yield ("models", written, "from"), _parsed(model.from_)[1], "CFG004"
    for index, written in enumerate(settings.security.allow_remote_code):
        if _parsed(written)[0] is None:
            yield ("security", "allow_remote_code"), f"entry {index + 1}: {_parsed(written)[1]}", "CFG004"


def _parsed(text: str) -> tuple[ModelName | None, str]:
    try:
        return ModelName.parse(text), ""
    except InvalidRequest as error:
        return None, error.message


def _parameters(settings: Settings) -> Iterator[Meaning]:
    for name, model in settings.models.items():
        try:
            Options.model_validate(model.parameters)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                key = str(item["loc"][0]) if item["loc"] else ""
                known = item["type"] != "extra_forbidden"
                path = ("models", name, "parameters", key) if key else ("models", name, "parameters")
                problem = sentence(path, item) if known else _unknown_parameter(path)
                yield path, problem, "CFG004" if known else "CFG003"


def _unknown_parameter(path: KeyPath) -> str:
    likely = likely_key(path)
    return f"unknown parameter; did you mean {likely!r}?" if likely else "unknown parameter"


def _loops(settings: Settings) -> Iterator[Meaning]:
    """Each loop once, at the alias that closes it."""
    targets = {}
    written = {}
    for alias, target in settings.aliases.items():
        name, goal = _parsed(alias)[0], _parsed(target)[0]
        if name is not None and goal is not None:
            targets[name], written[name] = goal, alias
    told: set[ModelName] = set()
    for start in targets:
        trail = [start]
        while (goal := targets.get(trail[-1])) is not None and goal not in trail:
            trail.append(goal)
        if goal is not None and goal == start and start not in told:
            told |= set(trail)
            loop = " -> ".join(name.short for name in [*trail, start])
            yield ("aliases", written[start]), f"the aliases loop: {loop}", "CFG004"
