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

async def leave(work):
    asking = asyncio.create_task(work())
    while not await asyncio.to_thread(active):
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return asking.cancelled()
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

told["left"] = asyncio.run(leave(lambda: parrot.ainvoke(ENDLESS)))
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

async def read():
    messages = [{"role": "user", "content": ENDLESS}]
    async for _ in await litellm.acompletion(
        model="ollama_chat/parrot", api_base=url, messages=messages, stream=True):
        pass

told["left"] = asyncio.run(leave(read))
print(json.dumps(told))
"""
)

LANGCHAIN_ERRORS = {
    "missing": "ResponseError: model 'nobody' not found",
    "missing at the start": "Model `nobody` not found",
    "schema": "ResponseError: invalid format",
    "middle": "told to fail",
    "missing vectors": "not found, try pulling it first",
}
LITELLM_ERRORS = {
    "missing": ("NotFoundError: ", "model 'nobody' not found"),
    "missing stream": ("NotFoundError: ", "model 'nobody' not found"),
    "schema": ("BadRequestError: ", "invalid format"),
    "middle": ("", "told to fail"),
}
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
    wait_until(server.idle)
    told: Told = json.loads(ran.stdout.splitlines()[-1])
    return told


def test_langchain_is_answered(daemon_with_fakes: Daemon) -> None:
    """ChatOllama, OllamaLLM and OllamaEmbeddings."""
    told = run(LANGCHAIN, daemon_with_fakes)
    assert told.pop("usage")["output_tokens"] == 3
    for name, words in LANGCHAIN_ERRORS.items():
        assert words in told.pop(name)
    assert told == {
        "whole": "one two three",
        "streamed": ["one", " two", " three"],
        "summed": 3,
        "limited": "length",
        "generated": ["one two", "one two"],
        "calls": [["weather", {"city": "Paris"}]],
        "streamed calls": [["weather", {"city": "Paris"}]],
        "result": "sunny",
        "structured": ["Person", "dict", "Person"],
        "by function": {"name": "Bob", "age": 3},
        "thought": ["let me see", "well"],
        "not thought": False,
        "vectors": [16, 16],
        "cut vector": 4,
        "left": True,
    }


def test_litellm_is_answered(daemon_with_fakes: Daemon) -> None:
    """`ollama_chat/` (chat), `ollama/` (generate), and its other two ways in."""
    told = run(LITELLM, daemon_with_fakes)
    for family in ("ollama_chat", "ollama"):
        of = told.pop(family)
        for name, (kind, words) in LITELLM_ERRORS.items():
            error = of.pop(name)
            assert error.startswith(kind)
            assert words in error
        assert of.pop("tokens") >= 3
        assert "one two three" in of["whole"]
        assert of.pop("whole") == of.pop("streamed")
        assert of == {"limited": 2, "structured": ["age", "name"], "object": "dict"}
    assert "not found" in told.pop("missing vectors")
    assert told == {
        "calls": [["weather", {"city": "Paris"}]],
        "streamed calls": [["weather", {"city": "Paris"}]],
        "finish": "tool_calls",
        "thought": ["let me see", "well"],
        "vectors": [16, 16],
        "as openai": "one two",
        "as anthropic": "one two",
        "left": True,
    }
