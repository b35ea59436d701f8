"""Frameworks that speak Ollama's own API: LangChain and LiteLLM, each in a process of its own (they are heavy)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.slow]

StartDaemon = Callable[..., Daemon]

LANGCHAIN = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings

url = sys.argv[1]
chat = ChatOllama(model="parrot", base_url=url, validate_model_on_init=True, client_kwargs={"trust_env": False})
whole = chat.invoke([HumanMessage("one two three")])
pieces = list(chat.stream([HumanMessage("one two three")]))
calling = chat.bind_tools([{"type": "function", "function": {"name": "weather", "description": "x",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}])
called = calling.invoke('fake:tool=weather fake:tool_args={"city":"Paris"} go')
try:
    ChatOllama(model="nobody", base_url=url, client_kwargs={"trust_env": False}).invoke("x")
    missing = ""
except Exception as error:
    missing = str(error)
vectors = OllamaEmbeddings(model="parrot", base_url=url, client_kwargs={"trust_env": False}).embed_documents(["a", "b"])
print(json.dumps({
    "whole": whole.content, "usage": whole.usage_metadata, "streamed": "".join(p.content for p in pieces),
    "summed": sum((p.usage_metadata or {}).get("output_tokens", 0) for p in pieces),
    "calls": [[c["name"], c["args"]] for c in called.tool_calls], "missing": missing, "vectors": len(vectors),
}))
"""

LITELLM = """
import json, sys, litellm

url = sys.argv[1]
ask = {"api_base": url, "messages": [{"role": "user", "content": "one two three"}]}
whole = litellm.completion(model="ollama_chat/parrot", **ask)
pieces = litellm.completion(model="ollama_chat/parrot", stream=True, **ask)
plain = litellm.completion(model="ollama/parrot", **ask)
vectors = litellm.embedding(model="ollama/parrot", input=["a", "b"], api_base=url)
try:
    litellm.completion(model="ollama_chat/nobody", **ask)
    missing = ""
except Exception as error:
    missing = str(error)
print(json.dumps({
    "whole": whole.choices[0].message.content, "tokens": whole.usage.completion_tokens,
    "streamed": "".join(p.choices[0].delta.content or "" for p in pieces),
    "plain": plain.choices[0].message.content, "vectors": len(vectors.data), "missing": missing,
}))
"""


def run(program: str, server: Daemon) -> dict[str, Any]:
    """What a program prints about the daemon."""
    ran = subprocess.run(
        [sys.executable, "-c", program, server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**server.environment, "PYTHONWARNINGS": "ignore", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def test_langchain_chats_streams_calls_tools_embeds_and_understands_errors(daemon: StartDaemon) -> None:
    told = run(LANGCHAIN, daemon())
    assert told["whole"] == told["streamed"] == "one two three"
    assert told["usage"]["output_tokens"] == told["summed"] > 0
    assert told["calls"] == [["weather", {"city": "Paris"}]]
    assert "not found" in told["missing"]
    assert told["vectors"] == 2


def test_litellm_chats_streams_generates_embeds_and_understands_errors(daemon: StartDaemon) -> None:
    told = run(LITELLM, daemon())
    assert told["whole"] == told["streamed"] == "one two three"
    assert told["tokens"] > 0
    assert "one two three" in told["plain"]
    assert told["vectors"] == 2
    assert "not found" in told["missing"]
