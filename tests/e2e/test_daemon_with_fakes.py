"""A whole daemon with fake models: the kit that other tests stand on."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e


def test_it_lists_answers_pulls_and_stops(daemon: Callable[..., Daemon]) -> None:
    server = daemon(fakes={"parrot": {}, "robot": {"say": "beep boop"}})
    assert {model["name"] for model in server.get("/api/tags").json()["models"]} == {"parrot:latest", "robot:latest"}
    records = server.lines("/api/generate", {"model": "robot", "prompt": "hello"})
    assert "".join(record["response"] for record in records) == "beep boop"
    assert records[-1]["done_reason"] == "stop"
    assert server.lines("/api/pull", {"model": "fake/polly"})[-1] == {"status": "success"}
    assert "fake/polly" in server.cli("list").stdout
    runner = psutil.Process(server.process.pid).children(recursive=True)
    assert server.stop() == 0
    wait_until(lambda: not any(child.is_running() for child in runner))


def test_a_crashing_model_is_an_error_with_its_last_words_and_others_answer(daemon: Callable[..., Daemon]) -> None:
    server = daemon(fakes={"parrot": {}, "crasher": {"load_fault": "exit:1"}})
    answer = server.post("/api/generate", {"model": "crasher", "prompt": "x"})
    assert answer.status_code == 500
    assert "exiting as told" in answer.json()["error"]
    assert server.post("/api/generate", {"model": "parrot", "prompt": "x", "stream": False}).json()["response"] == "x"


def test_models_are_preloaded_kept_and_timed_as_the_settings_and_requests_say(daemon: Callable[..., Daemon]) -> None:
    hasty = {"from": "robot", "request_timeout": "0.5s"}  # the same runner as `robot`, which is loaded first
    models = {"keeper": {"from": "parrot", "preload": True, "pin": True}, "hasty": hasty}
    settings = {"models": models, "runners": {"max_loaded_models": 2}}
    server = daemon(fakes={"parrot": {}, "robot": {}, "finch": {}}, settings=settings)

    def loaded() -> dict[str, str]:
        found = server.get("/api/ps").json()["models"]
        return {model["name"].removesuffix(":latest"): model["expires_at"] for model in found}

    wait_until(lambda: list(loaded()) == ["keeper"])
    assert server.post("/api/generate", {"model": "robot"}).json()["done_reason"] == "load"
    body = {"model": "hasty", "prompt": "fake:tokens=100000 fake:rate=10 go", "stream": False}
    late = server.post("/api/generate", body)
    assert (late.status_code, late.json()["error"][:34]) == (504, "the request took longer than 0.5s:")
    answer = server.post("/api/generate", {"model": "robot", "prompt": "x", "stream": False, "keep_alive": -1})
    assert answer.headers["x-ollmlx-load-ms"] == "0.0"
    assert float(answer.headers["x-ollmlx-queue-ms"]) >= 0
    assert set(loaded()) == {"keeper", "robot"}
    assert loaded()["robot"] > "2100"
    assert server.post("/api/generate", {"model": "finch", "prompt": "x", "keep_alive": "1h"}).status_code == 200
    assert set(loaded()) == {"keeper", "finch"}  # the pinned one stays, who was to stay for ever made room
    assert server.post("/api/generate", {"model": "finch", "keep_alive": 0}).json()["done_reason"] == "unload"
    wait_until(lambda: set(loaded()) == {"keeper"})


@pytest.mark.model
@pytest.mark.mlx
def test_the_real_model_answers(daemon: Callable[..., Daemon], smollm2_models: object) -> None:
    server = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models)}})
    body = {"model": "smollm2:135m", "prompt": "The capital of France is", "raw": True, "stream": False}
    answer = server.post("/api/generate", {**body, "options": {"temperature": 0, "num_predict": 8}}).json()
    assert "Paris" in answer["response"]
