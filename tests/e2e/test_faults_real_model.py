"""The fault matrix where it touches mlx: clients leave the real model's prefill and vectors, and it is killed."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import sent

from ollmlx.testing import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.mlx]
MODEL = "smollm2:135m"


@pytest.mark.fault(6)
@pytest.mark.fault(40)
def test_the_real_model_is_left_in_prefill_and_in_vectors_and_killed_in_mid_stream(
    daemon: StartDaemon, smollm2_models: Path
) -> None:
    settings = {"storage": {"models": str(smollm2_models)}, "runners": {"parallel": 1}}
    server = daemon(fakes=None, settings=settings)

    def ask(prompt: str, **options: float) -> dict[str, object]:
        body = {"model": MODEL, "prompt": prompt, "stream": False, "options": {"num_predict": 1, **options}}
        answer: dict[str, object] = server.post("/api/generate", body).json()
        return answer

    assert ask("warm")["done"] is True

    digits = "3 1 4 1 5 9 2 6 " * 900
    for path, body in (("/api/generate", {"prompt": digits, "stream": False}), ("/api/embed", {"input": digits})):
        with closing(sent(server, path, {"model": MODEL, **body})):
            wait_until(lambda: server.active() == 1)
        wait_until(lambda: f"POST {path} 499" in server.log_text)  # noqa: B023
        assert ask("short")["done"] is True  # the only slot is free again

    pid = server.loaded()[0]["pid"]
    endless = {"model": MODEL, "prompt": "Tell me a long story.", "options": {"num_predict": 4000}}
    with httpx2.stream("POST", f"{server.url}/api/generate", json=endless, timeout=120) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["done"] is False
        os.kill(pid, signal.SIGKILL)
        last = json.loads(list(lines)[-1])
    assert "was killed by SIGKILL" in last["error"]
    assert ask("again")["done"] is True
    (loaded,) = server.loaded()
    assert (loaded["pid"] != pid, loaded["restarts"]) == (True, 1)
    wait_until(lambda: not psutil.pid_exists(pid))
