"""Comparing what a route family answers with what the real service answers, field by field.

A recorded exchange is a JSON file: `path`, `request`, what the model does (`events`, `done`), and the service's
`answer`: an object, or a list of the records of a stream. `varies`: names of fields that only have to be of the same
type. `without`: fields of the service that are not given here. `ours`: fields the service does not have. `only`: the
types of the events that are compared. `missing`: the model is not installed.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from ollmlx.protocol import EVENT
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, ModelDetails

TIMES = ("created_at",)
DONE_MARK = "[DONE]"


async def answered(file: Path, blueprint: Any) -> tuple[dict[str, Any], Any]:
    """The recorded exchange, and the family's answer to its request: an object, or a stream's records."""
    recorded = json.loads(file.read_text(encoding="utf-8"))
    request = recorded["request"]
    capabilities = ("completion", "tools", "thinking", "embedding")
    details = ModelDetails(format="fake", family="fake")
    model = installed(request["model"], capabilities=capabilities, details=details)
    service = FakeService(models=[] if recorded.get("missing") else [model])
    if "events" in recorded:
        service.outcomes = [*map(EVENT.validate_python, recorded["events"]), Done(**recorded["done"])]
    client: Any = web_app(service, blueprint).test_client()
    method = recorded.get("method", "POST")
    data = json.dumps(request) if method == "POST" else None
    answer = await client.open(recorded["path"], method=method, data=data)
    assert answer.status_code == recorded.get("status", 200)
    body = await answer.get_data(as_text=True)
    if not isinstance(recorded["answer"], list):
        assert answer.content_type == "application/json"
        return recorded, json.loads(body)
    if answer.content_type == "application/x-ndjson":
        assert body.endswith("\n")
        assert "\n\n" not in body
        return recorded, [json.loads(line) for line in body.splitlines()]
    assert answer.content_type == "text/event-stream"
    events = list(map(_event, body.removesuffix("\n\n").split("\n\n")))
    only = recorded.get("only")
    return recorded, [event for event in events if event["type"] in only] if only else events


def _event(text: str) -> Any:
    """The data of a server-sent event; its name, when it has one, is the type its data says."""
    *name, data = text.split("\n")
    found = data.removeprefix("data: ")
    if found == DONE_MARK:
        return found
    value = json.loads(found)
    assert name == ([] if "type" not in value else [f"event: {value['type']}"])
    return value


def compare(found: Any, recorded: dict[str, Any], *, ordered: bool = False) -> None:
    """Raise AssertionError with the place of the first difference. `ordered`: names must come in the same order."""
    without, ours = set(recorded.get("without", ())), set(recorded.get("ours", ()))
    varies = set(recorded.get("varies", ()))
    _used(without, recorded["answer"], "without")
    _used(ours, found, "ours")
    _same(found, recorded["answer"], "", (without, ours, varies, ordered))


def _used(names: set[str], value: Any, kind: str) -> None:
    text = json.dumps(value)
    unused = [name for name in names if f'"{name}":' not in text]
    assert not unused, f"{kind} names fields that are nowhere: {unused}"


def _same(found: Any, wanted: Any, where: str, rules: tuple[set[str], set[str], set[str], bool]) -> None:
    without, ours, varies, ordered = rules
    name = where.rpartition(".")[2]
    assert type(found) is type(wanted), f"{where}: {found!r} instead of {wanted!r}"
    if isinstance(wanted, dict):
        wanted_names = [key for key in wanted if key not in without]
        found_names = [key for key in found if key not in ours]
        arrange = list if ordered else sorted
        assert arrange(found_names) == arrange(wanted_names), where
        for key in wanted_names:
            _same(found[key], wanted[key], f"{where}.{key}", rules)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, item in enumerate(wanted):
            _same(found[index], item, f"{where}[{index}]", rules)
    elif name in TIMES and isinstance(wanted, str):
        assert datetime.fromisoformat(found).tzinfo is not None
    elif name not in varies:
        assert found == wanted, where
