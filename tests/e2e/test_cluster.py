"""A declared cluster through the daemon: one runner, whatever happens to its ranks, and nothing left of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import all_gone, asking, command, family
from tests.random_models import DEEPSEEK, byte_model, greedy

from ollmlx.helper.sandbox import landlock_version
from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.slow]
SPREAD = {"from": "org/tiny", "cluster": {"hosts": ["localhost", "localhost"], "mode": "pipeline"}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny model whose layers can be a pipeline."""
    models = tmp_path_factory.mktemp("models")
    byte_model(models / "mlx" / "org_tiny", DEEPSEEK)
    return models


def ranks(daemon: Daemon) -> dict[int, psutil.Process]:
    """The ranks by number."""
    found = [process for process in family(daemon) if command(process)[2:4] == ["-m", "ollmlx_cluster.rank"]]
    return {int(process.environ()["MLX_RANK"]): process for process in found}


def test_a_pipeline_is_one_runner_that_survives_a_lost_rank_and_not_its_daemon(
    daemon: StartDaemon, models: Path
) -> None:
    server = daemon(fakes=None, settings={"storage": {"models": str(models)}, "models": {"spread": SPREAD}})
    asked = {"model": "spread", "prompt": "two machines", "stream": False}
    answer = server.post("/api/generate", {**asked, "options": {"temperature": 0, "num_predict": 12}}).json()
    assert answer["context"] == greedy(models / "mlx" / "org_tiny", "two machines", 12)

    (loaded,) = server.loaded()
    assert loaded["name"] == "spread:latest"
    assert set(ranks(server)) == {0, 1}
    if landlock_version():
        assert not [note for note in loaded["notes"] if note.startswith("not confined")]
        states = [Path(f"/proc/{rank.pid}/status").read_text(encoding="ascii") for rank in ranks(server).values()]
        assert all("NoNewPrivs:\t1" in state and "Seccomp:\t2" in state for state in states)

    first = list(ranks(server).values())

    with asking(server, "spread", "count", options={"temperature": 0, "num_predict": 30000}) as lines:
        wait_until(lambda: lines)
        ranks(server)[1].kill()
    assert "rank 1 on localhost was lost" in lines[-1]
    all_gone(first)

    again = server.post("/api/generate", {**asked, "options": {"temperature": 0, "num_predict": 12}}).json()
    assert again["response"] == answer["response"]
    second = list(ranks(server).values())
    server.kill()
    all_gone(second)
