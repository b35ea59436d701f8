"""A long prompt behind a proxy that cuts idle connections: streams live; early errors keep their status.

Times are a thirtieth of real ones: the proxy cuts after two seconds, and the prompt takes four.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e

PROXY = Path(__file__).parents[1] / "servers" / "impatient_proxy.py"
PATIENCE = "2.0"
SLOW = {"prefill": 20, "prefill_ms": 200, "say": "at last", "parallel": 8}
USER = [{"role": "user", "content": "a long prompt"}]
DIALECTS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "a long prompt"},
    "/v1/chat/completions": {"messages": USER},
    "/v1/responses": {"input": "a long prompt"},
    "/v1/messages": {"messages": USER, "max_tokens": 99},
}
SIGNS = {
    "/api/chat": '"message":{"role":"assistant","content":""},"done":false}',
    "/api/generate": '"response":"","done":false}',
    "/v1/chat/completions": ": prompt: ",
    "/v1/responses": "event: response.in_progress",
    "/v1/messages": "event: ping",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a slow model, which is loaded, and a quick one that fails."""
    fakes: dict[str, dict[str, Any]] = {"slow": SLOW, "broken": {"fault": "error:storage@start"}}
    settings = {"server": {"first_byte": 0.2}}
    with Daemon(tmp_path_factory.mktemp("waits"), fakes=fakes, settings=settings) as started:
        started.post("/api/generate", {"model": "slow", "stream": False})
        yield started


@pytest.fixture(scope="module")
def proxy(daemon: Daemon) -> Iterator[str]:
    """The address of the proxy."""
    host, _, port = daemon.address.rpartition(":")
    argv = [sys.executable, "-I", str(PROXY), host, port, PATIENCE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def ask(proxy: str, path: str, stream: bool) -> str:
    """The answer, or the kind of the failure."""
    try:
        body = {"model": "slow", "stream": stream, **DIALECTS[path]}
        return httpx2.post(proxy + path, json=body, timeout=60).text
    except httpx2.TransportError as error:
        return type(error).__name__


def test_streams_live_and_answers_without_a_stream_are_cut(proxy: str) -> None:
    asked = [*((path, True) for path in DIALECTS), ("/api/chat", False)]
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = dict(zip(asked, threads.map(lambda one: ask(proxy, *one), asked), strict=True))
    assert answers.pop(("/api/chat", False)).endswith("Error")  # the proxy does cut
    for (path, _), answer in answers.items():
        assert "at" in answer, path
        assert " last" in answer, path
        assert answer.count(SIGNS[path]) > 1, (path, answer)


@pytest.mark.parametrize("path", DIALECTS)
def test_an_early_error_keeps_its_status(daemon: Daemon, path: str) -> None:
    missing = daemon.post(path, {"model": "missing", "stream": True, **DIALECTS[path]})
    assert missing.status_code == 404, missing.text


def test_an_error_after_the_first_sign_of_life_is_the_last_event(daemon: Daemon) -> None:
    for path, asked in DIALECTS.items():
        words = "x fake:prefill=10 fake:prefill_ms=100 fake:fault=error:storage@1"
        body = {**asked, **({"messages": [{"role": "user", "content": words}]} if "messages" in asked else {})}
        body |= {"prompt": words} if "prompt" in asked else {}
        body |= {"input": words} if "input" in asked else {}
        answer = daemon.post(path, {"model": "slow", "stream": True, **body})
        assert answer.status_code == 200
        assert "told to fail with storage" in answer.text.strip().splitlines()[-1], answer.text
