"""Recorded exchanges with Ollama, OpenAI and Anthropic: the answers here have the same fields and values.

A recorded exchange is a JSON file: `path`, `request`, the output of the model (`events`, `done`), and the service's
`answer`: an object, or a list of the records of a stream. `varies`: names of fields that only must have the same type.
`without`: fields of the service that are not given here. `ours`: fields that the service does not have. `only`: the
types of the events that are compared. `missing`: the model is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Discriminator, TypeAdapter

from ollmlx.protocol import EVENT
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, ModelDetails
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai

TIMES = ("created_at",)
DONE_MARK = "[DONE]"


async def answered(file: Path, blueprint: Any) -> tuple[dict[str, Any], Any]:
    """Return the recorded exchange, and the family's answer to its request: an object, or the records of a stream."""
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
    """Return the data of a server-sent event, whose name is the type in its data."""
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


FAMILIES = {"ollama": ollama, "openai": openai, "anthropic": anthropic}
Validate = Callable[[Any], object]


def recordings(family: str) -> list[Path]:
    return sorted((Path(__file__).parent / f"{family}_api" / "recorded").glob("*.json"))


def of_openais_types() -> Validate:
    """A function that raises for a record that is of none of the types of OpenAI's client."""
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent

    types: dict[str, type[BaseModel]] = {
        "chat.completion": ChatCompletion,
        "chat.completion.chunk": ChatCompletionChunk,
        "text_completion": Completion,
        "response": Response,
        "list": CreateEmbeddingResponse,
    }
    event: TypeAdapter[Any] = TypeAdapter(Annotated[ResponseStreamEvent, Discriminator("type")])

    def validate(record: Any) -> object:
        if record == DONE_MARK or record.get("error"):
            return None
        if "type" in record:
            return event.validate_python(record)
        if record["object"] == "list" and record["data"][0]["object"] == "model":
            return Model.model_validate(record["data"][0])
        return types[record["object"]].model_validate(record)

    return validate


def of_anthropics_types() -> Validate:
    """A function that raises for a record that is of none of the types of Anthropic's client."""
    from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent

    event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)

    def validate(record: Any) -> object:
        if record.get("type") == "message":
            return Message.model_validate(record)
        if "input_tokens" in record:
            return MessageTokensCount.model_validate(record)
        return event.validate_python(record) if record["type"] != "error" else None

    return validate


@pytest.fixture(scope="module")
def validators() -> dict[str, Validate]:
    """The clients' types by family. The clients are imported here because that takes a second."""
    return {"ollama": lambda record: None, "openai": of_openais_types(), "anthropic": of_anthropics_types()}


@pytest.mark.parametrize(
    ("family", "file"),
    [pytest.param(family, file, id=f"{family}-{file.stem}") for family in FAMILIES for file in recordings(family)],
)
async def test_the_answer_is_the_recorded_one_and_of_the_clients_types(
    family: str, file: Path, validators: dict[str, Validate]
) -> None:
    recorded, found = await answered(file, FAMILIES[family])
    compare(found, recorded, ordered=family == "ollama")
    for record in found if isinstance(found, list) else [found]:
        validators[family](record)
