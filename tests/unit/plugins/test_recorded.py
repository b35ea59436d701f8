"""The recorded requests of coding agents are understood, whole: nothing that they offer or say gets lost on the way."""

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
from ollmlx.types import Done, GenerateRequest, ModelDetails, Text, ToolCall, ToolCalled
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai

FOLDER = Path(__file__).parent / "recorded_agents"
AGENTS = {"codex": openai, "claude_code": anthropic, "opencode": openai, "opencode_title": openai}
SPAWN = "multi_agent_v1__spawn_agent"


def recorded(agent: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{agent}.json").read_text(encoding="utf-8"))
    return found


async def sent(agent: str, *calls: ToolCall, **changes: Any) -> tuple[GenerateRequest, str]:
    """Send an agent's request; return what the service got, and the stream of an answer with these calls."""
    record = recorded(agent)
    body = record["request"] | changes
    service = FakeService(models=[installed(body["model"], capabilities=("completion", "tools", "thinking"))])
    service.outcomes = [Text(text="Hello."), *(ToolCalled(call=call) for call in calls), Done()]
    client: Any = web_app(service, AGENTS[agent]).test_client()
    answer = await client.post(record["path"], data=json.dumps(body))
    text = await answer.get_data(as_text=True)
    assert answer.status_code == 200, text
    (request,) = [arguments for method, _, arguments in service.calls if method == "generate"]
    return request, text


def offered(request: GenerateRequest) -> set[str]:
    return {tool["function"]["name"] for tool in request.tools}


def said(request: GenerateRequest) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in request.messages]


@pytest.mark.parametrize("agent", AGENTS)
async def test_every_recording_is_answered_and_its_task_is_the_last_word_of_the_user(agent: str) -> None:
    request, stream = await sent(agent)
    assert "Hello." in stream
    users = [text for role, text in said(request) if role == "user"]
    assert "Fix calc.py so that its test passes." in users[-1]
    assert (request.truncate, request.tool_choice) == (False, "auto")


async def test_codex_is_offered_every_tool_and_its_namespaced_and_freeform_calls_come_back() -> None:
    calls = (ToolCall(name=SPAWN, arguments={}, id="a"), ToolCall(name="apply_patch", arguments={"input": "*"}, id="b"))
    request, stream = await sent("codex", *calls)
    members = sum(len(tool.get("tools", (1,))) for tool in recorded("codex")["request"]["tools"])
    assert len(offered(request)) == members
    assert {"exec_command", "apply_patch", "view_image", SPAWN} <= offered(request)
    assert '"name":"spawn_agent"' in stream
    assert '"namespace":"multi_agent_v1"' in stream
    assert '"type":"custom_tool_call"' in stream
    assert [role for role, _ in said(request)] == ["system", "system", "user", "user"]


async def test_codexs_own_patch_grammar_holds_a_patch_that_must_be_made() -> None:
    request, _ = await sent("codex", tool_choice={"type": "custom", "name": "apply_patch"})
    assert request.tool_choice == "apply_patch"
    assert request.grammar is not None
    assert "begin_patch" in request.grammar


async def test_claude_code_keeps_its_system_message_in_the_middle_and_its_effort() -> None:
    request, stream = await sent("claude_code")
    assert offered(request) == {tool["name"] for tool in recorded("claude_code")["request"]["tools"]}
    roles = [role for role, _ in said(request)]
    assert roles[0] == "system"
    assert "system" in roles[1:]
    assert request.think == "high"
    assert request.options.num_predict == recorded("claude_code")["request"]["max_tokens"]
    assert stream.endswith('{"type":"message_stop"}\n\n')


async def test_opencode_gets_its_tools_and_the_counts_at_the_end() -> None:
    request, stream = await sent("opencode")
    assert len(offered(request)) == len(recorded("opencode")["request"]["tools"])
    assert '"usage":{' in stream
    assert stream.endswith("data: [DONE]\n\n")


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
