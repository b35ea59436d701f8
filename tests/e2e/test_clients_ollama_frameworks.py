"""Frameworks that speak Ollama's own API: LangChain and LiteLLM, each in one process of its own (they are heavy)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.slow]

SHARED = """
import asyncio, json, sys, time
from urllib.request import ProxyHandler, build_opener
from pydantic import BaseModel

url, told = sys.argv[1], {}
ask_directly = build_opener(ProxyHandler({}))
CALL = 'fake:tool=weather fake:tool_args={"city":"Paris"} go'
BREAKS = "fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go"
ENDLESS = "fake:tokens=100000 fake:rate=50 go"
WEATHER = {"type": "function", "function": {"name": "weather", "description": "x",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}

class Person(BaseModel):
    name: str
    age: int

def active():
    return sum(model["active"] for model in json.load(ask_directly.open(url + "/api/ps"))["models"])

def refused(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
"""

LANGCHAIN = (
    SHARED
    + """
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

def chat(model="parrot", **more):
    return ChatOllama(model=model, base_url=url, client_kwargs={"trust_env": False}, **more)

def embeddings(model="parrot", **more):
    return OllamaEmbeddings(model=model, base_url=url, client_kwargs={"trust_env": False}, **more)

parrot = chat(validate_model_on_init=True)
whole = parrot.invoke([SystemMessage("be brief"), HumanMessage("one two three")])
told["whole"], told["usage"] = whole.content, whole.usage_metadata
pieces = list(parrot.stream([HumanMessage("one two three")]))
told["streamed"] = [p.content for p in pieces if p.content]
told["summed"] = sum((p.usage_metadata or {}).get("output_tokens", 0) for p in pieces)
told["limited"] = chat(num_predict=2).invoke("one two three").response_metadata["done_reason"]

calling = parrot.bind_tools([WEATHER])
first = calling.invoke(CALL)
told["calls"] = [[c["name"], c["args"]] for c in first.tool_calls]
told["streamed calls"] = [[c["name"], c["args"]] for p in calling.stream(CALL) for c in p.tool_calls]
back = [HumanMessage("the weather?"), first, ToolMessage("sunny", tool_call_id=first.tool_calls[0]["id"])]
told["result"] = calling.invoke(back).content

told["structured"] = [
    type(parrot.with_structured_output(Person, method="json_schema").invoke("who")).__name__,
    type(parrot.with_structured_output(Person.model_json_schema(), method="json_mode").invoke("who")).__name__,
    type(list(parrot.with_structured_output(Person).stream("who"))[-1]).__name__,
]
told["by function"] = parrot.with_structured_output(Person, method="function_calling").invoke(
    'fake:tool=Person fake:tool_args={"name":"Bob","age":3} go').model_dump()
thought = chat("thinker", reasoning=True).invoke("well")
told["thought"] = [thought.additional_kwargs["reasoning_content"], thought.content]
told["not thought"] = "reasoning_content" in chat("thinker", reasoning=False).invoke("well").additional_kwargs

told["missing"] = refused(lambda: chat("nobody").invoke("x"))
told["missing at the start"] = refused(lambda: chat("nobody", validate_model_on_init=True))
told["schema"] = refused(lambda: chat(format={"type": 3}).invoke("x"))
told["middle"] = refused(lambda: list(parrot.stream(BREAKS)))
told["missing vectors"] = refused(lambda: embeddings("nobody").embed_query("x"))

told["vectors"] = [len(v) for v in embeddings().embed_documents(["a", "b"])]
told["cut vector"] = len(embeddings(dimensions=4).embed_query("a"))
llm = OllamaLLM(model="parrot", base_url=url, client_kwargs={"trust_env": False})
told["generated"] = [llm.invoke("one two"), "".join(llm.stream("one two"))]

async def leave():
    asking = asyncio.create_task(parrot.ainvoke(ENDLESS))
    while not await asyncio.to_thread(active):
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return asking.cancelled()

told["left"] = asyncio.run(leave())
print(json.dumps(told))
"""
)

LITELLM = (
    SHARED
    + """
import litellm

litellm.suppress_debug_info = True
no_mcp = {"_skip_mcp_handler": True}  # for tools of any kind LiteLLM imports the package `mcp`, an extra of its own

def ask(text, model="ollama_chat/parrot", **more):
    return litellm.completion(model=model, api_base=url, messages=[{"role": "user", "content": text}], **more)

def text_of(pieces):
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)

for family in ("ollama_chat", "ollama"):
    model = family + "/parrot"
    whole = ask("one two three", model)
    told[family] = {
        "whole": whole.choices[0].message.content,
        "tokens": whole.usage.completion_tokens,
        "streamed": text_of(ask("one two three", model, stream=True)),
        "limited": ask("one two three", model, max_tokens=2).usage.completion_tokens,
        "structured": sorted(json.loads(ask("who", model, response_format=Person).choices[0].message.content)),
        "object": type(json.loads(
            ask("who", model, response_format={"type": "json_object"}).choices[0].message.content)).__name__,
        "missing": refused(lambda: ask("x", family + "/nobody")),
        "missing stream": refused(lambda: list(ask("x", family + "/nobody", stream=True))),
        "schema": refused(lambda: ask("x", model, format={"type": 3})),
        "middle": refused(lambda: list(ask(BREAKS, model, stream=True))),
    }

called = ask(CALL, tools=[WEATHER], **no_mcp).choices[0]
told["calls"] = [[c.function.name, json.loads(c.function.arguments)] for c in called.message.tool_calls]
told["finish"] = called.finish_reason
deltas = [p.choices[0].delta.tool_calls or [] for p in ask(CALL, tools=[WEATHER], stream=True, **no_mcp)]
told["streamed calls"] = [[c.function.name, json.loads(c.function.arguments)] for calls in deltas for c in calls]
thought = ask("well", "ollama_chat/thinker", think=True).choices[0].message
told["thought"] = [thought.reasoning_content, thought.content]
told["vectors"] = [
    len(found["embedding"])
    for found in litellm.embedding(model="ollama/parrot", input=["a", "b"], api_base=url).data
]
told["missing vectors"] = refused(lambda: litellm.embedding(model="ollama/nobody", input=["a"], api_base=url))
told["as openai"] = ask("one two", "openai/parrot", api_key="none", base_url=url + "/v1").choices[0].message.content
told["as anthropic"] = ask("one two", "anthropic/parrot", api_key="none").choices[0].message.content

async def leave():
    messages = [{"role": "user", "content": ENDLESS}]
    async def read():
        async for _ in await litellm.acompletion(
            model="ollama_chat/parrot", api_base=url, messages=messages, stream=True):
            pass
    asking = asyncio.create_task(read())
    while not await asyncio.to_thread(active):
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return asking.cancelled()

told["left"] = asyncio.run(leave())
print(json.dumps(told))
"""
)

Told = dict[str, Any]


def run(program: str, server: Daemon) -> Told:
    """Run a program against the daemon and return its output; afterwards no request may be active."""
    ran = subprocess.run(
        [sys.executable, "-c", program, server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**server.environment, "PYTHONWARNINGS": "ignore", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    wait_until(lambda: not any(model["active"] for model in server.get("/api/ps").json()["models"]))
    told: Told = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def langchain(daemon_with_fakes: Daemon) -> Told:
    return run(LANGCHAIN, daemon_with_fakes)


@pytest.fixture(scope="module")
def litellm(daemon_with_fakes: Daemon) -> Told:
    return run(LITELLM, daemon_with_fakes)


class TestLangChain:
    """ChatOllama, OllamaLLM and OllamaEmbeddings."""

    def test_whole_and_streamed_say_the_same_and_count_the_same(self, langchain: Told) -> None:
        assert langchain["whole"] == "".join(langchain["streamed"]) == "one two three"
        assert len(langchain["streamed"]) == 3
        assert langchain["usage"]["output_tokens"] == langchain["summed"] == 3
        assert langchain["limited"] == "length"
        assert langchain["generated"] == ["one two", "one two"]

    def test_tools_are_called_whole_and_streamed_and_their_results_answered(self, langchain: Told) -> None:
        assert langchain["calls"] == langchain["streamed calls"] == [["weather", {"city": "Paris"}]]
        assert langchain["result"] == "sunny"

    def test_structured_output_is_parsed_by_every_method(self, langchain: Told) -> None:
        assert langchain["structured"] == ["Person", "dict", "Person"]
        assert langchain["by function"] == {"name": "Bob", "age": 3}

    def test_reasoning_is_apart_from_the_answer(self, langchain: Told) -> None:
        assert langchain["thought"] == ["let me see", "well"]
        assert langchain["not thought"] is False

    def test_errors_are_its_own_exceptions_with_our_sentence(self, langchain: Told) -> None:
        assert langchain["missing"].startswith("ResponseError: model 'nobody' not found")
        assert "Model `nobody` not found" in langchain["missing at the start"]
        assert langchain["schema"].startswith("ResponseError: invalid format")
        assert "told to fail" in langchain["middle"]
        assert "not found, try pulling it first" in langchain["missing vectors"]

    def test_texts_are_embedded(self, langchain: Told) -> None:
        assert langchain["vectors"] == [16, 16]
        assert langchain["cut vector"] == 4

    def test_leaving_cancels_the_work(self, langchain: Told) -> None:
        assert langchain["left"] is True


class TestLiteLLM:
    """`ollama_chat/` (chat), `ollama/` (generate), and its other two ways in."""

    @pytest.mark.parametrize("family", ["ollama_chat", "ollama"])
    def test_whole_and_streamed_say_the_same(self, litellm: Told, family: str) -> None:
        of = litellm[family]
        assert of["whole"] == of["streamed"]
        assert "one two three" in of["whole"]
        assert of["tokens"] >= 3
        assert of["limited"] == 2

    @pytest.mark.parametrize("family", ["ollama_chat", "ollama"])
    def test_structured_output_has_the_schemas_shape(self, litellm: Told, family: str) -> None:
        assert litellm[family]["structured"] == ["age", "name"]
        assert litellm[family]["object"] == "dict"

    @pytest.mark.parametrize("family", ["ollama_chat", "ollama"])
    def test_errors_are_its_own_exceptions_with_our_sentence(self, litellm: Told, family: str) -> None:
        of = litellm[family]
        for missing in ("missing", "missing stream"):
            assert of[missing].startswith("NotFoundError: ")
            assert "model 'nobody' not found" in of[missing]
        assert of["schema"].startswith("BadRequestError: ")
        assert "invalid format" in of["schema"]
        assert "told to fail" in of["middle"]

    def test_tools_are_called_whole_and_streamed(self, litellm: Told) -> None:
        assert litellm["calls"] == litellm["streamed calls"] == [["weather", {"city": "Paris"}]]
        assert litellm["finish"] == "tool_calls"

    def test_reasoning_is_apart_from_the_answer(self, litellm: Told) -> None:
        assert litellm["thought"] == ["let me see", "well"]

    def test_texts_are_embedded(self, litellm: Told) -> None:
        assert litellm["vectors"] == [16, 16]
        assert "not found" in litellm["missing vectors"]

    def test_the_other_dialects_answer_it_too(self, litellm: Told) -> None:
        assert litellm["as openai"] == litellm["as anthropic"] == "one two"

    def test_leaving_cancels_the_work(self, litellm: Told) -> None:
        assert litellm["left"] is True
