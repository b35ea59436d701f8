"""A declared cluster through the daemon: one runner, whatever happens to its ranks, and nothing left of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.byte_model import DEEPSEEK, greedy, write_model

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.slow]
SPREAD = {"from": "org/tiny", "cluster": {"hosts": ["localhost", "localhost"], "mode": "pipeline"}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny model whose layers can be a pipeline."""
    models = tmp_path_factory.mktemp("models")
    write_model(models / "mlx" / "org_tiny", DEEPSEEK)
    return models


def ranks(daemon: Daemon) -> dict[int, psutil.Process]:
    """The ranks by number."""
    family = psutil.Process(daemon.process.pid).children(recursive=True)
    found = [process for process in family if process.cmdline()[2:4] == ["-m", "ollmlx_cluster.rank"]]
    return {int(process.environ()["MLX_RANK"]): process for process in found}


def all_gone(processes: list[psutil.Process]) -> None:
    def gone() -> bool:
        return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)

    wait_until(gone, because=f"{processes} are gone")


def test_a_pipeline_is_one_runner_that_survives_a_lost_rank_and_not_its_daemon(
    daemon: Callable[..., Daemon], models: Path
) -> None:
    server = daemon(fakes=None, settings={"storage": {"models": str(models)}, "models": {"spread": SPREAD}})
    asked = {"model": "spread", "prompt": "two machines", "stream": False}
    answer = server.post("/api/generate", {**asked, "options": {"temperature": 0, "num_predict": 12}}).json()
    assert answer["context"] == greedy(models / "mlx" / "org_tiny", "two machines", 12)

    (loaded,) = server.get("/api/ps").json()["models"]
    assert loaded["name"] == "spread:latest"
    assert set(ranks(server)) == {0, 1}

    first = list(ranks(server).values())
    begun = threading.Event()
    lines: list[dict[str, object]] = []

    def count() -> None:
        body = {"model": "spread", "prompt": "count", "options": {"temperature": 0, "num_predict": 30000}}
        with httpx2.stream("POST", f"{server.url}/api/generate", json=body, timeout=120) as stream:
            for line in stream.iter_lines():
                lines.append(json.loads(line))
                begun.set()

    counting = threading.Thread(target=count)
    counting.start()
    assert begun.wait(120)
    ranks(server)[1].kill()
    counting.join(120)
    assert "rank 1 on localhost was lost" in str(lines[-1].get("error")), lines[-1]
    all_gone(first)

    again = server.post("/api/generate", {**asked, "options": {"temperature": 0, "num_predict": 12}}).json()
    assert again["response"] == answer["response"]
    second = list(ranks(server).values())
    server.kill()
    all_gone(second)
