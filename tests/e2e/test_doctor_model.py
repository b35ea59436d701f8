"""`ollmlx doctor --model`: a model that keeps its promises is clean, and each broken promise is found by its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx.doctor.daemon import DaemonClient
from ollmlx.doctor.selftest import trials
from ollmlx.doctor.selftest.session import self_test
from ollmlx.doctor.selftest.subject import Subject
from ollmlx.errors.findings import Finding
from ollmlx.model.names import ModelName
from ollmlx.testing.daemon import Daemon
from ollmlx.text.addresses import Address

pytestmark = pytest.mark.e2e
WRONG: dict[str, dict[str, Any]] = {
    "cache": {"wrong_answers": "cache"},
    "batch": {"wrong_answers": "batch", "rate": 200},
    "repeat": {"wrong_answers": "repeat"},
    "seed": {"wrong_answers": "seed"},
    "schema": {"wrong_answers": "schema"},
    "stop": {"wrong_answers": "stop"},
    "cancel": {"wrong_answers": "cancel", "rate": 200},
    "fat": {"memory_mib": 300},
}
ROOM = {
    "runners": {"context_length": 512},
    "memory": {"prompt_cache": 0},
    "plugins": {"fake": {"weights": 128 * 1024 * 1024}},
}
"""The reservation of each model is little more than its weights: only the model that allocates more exceeds it."""


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A daemon with one model for each lie, and one that says the truth."""
    models = {name: {"parallel": 2, **script} for name, script in {"parrot": {}, **WRONG}.items()}
    server = Daemon(tmp_path_factory.mktemp("liars"), fakes=models, settings=ROOM).start()
    yield server
    assert server.stop() == 0


async def tried(server: Daemon, name: str, **options: Any) -> list[Finding]:
    """Return the findings of a self-test."""
    subject = Subject(DaemonClient(Address.parse(server.address), None), ModelName.parse(name))
    report = await self_test(subject, lambda what, holds, seconds: None, **options)
    return [finding for result in report.results for finding in result.findings]


def test_a_model_that_keeps_its_promises_is_clean_and_is_told_so_step_by_step(liars: Daemon) -> None:
    done = liars.cli("doctor", "--model", "parrot", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] == []
    assert all(f"✓ {trial.guarantee}" in done.stderr for trial in trials.TRIALS)


@pytest.mark.finding("RUN010", "RUN017")
@pytest.mark.parametrize(
    ("lie", "code", "evidence"),
    [
        ("cache", "RUN010", "tokens came from the cache"),
        ("batch", "RUN010", "2 requests at once"),
        ("repeat", "RUN010", "token 1 is"),
        ("seed", "RUN010", ", then '"),
        ("schema", "RUN010", "it is not JSON"),
        ("stop", "RUN010", "expected"),
        ("cancel", "RUN010", "2 clients disconnected"),
        ("fat", "RUN017", "context: 512"),
    ],
)
async def test_a_broken_promise_is_a_finding_of_its_own(
    liars: Daemon, monkeypatch: pytest.MonkeyPatch, lie: str, code: str, evidence: str
) -> None:
    monkeypatch.setattr(trials, "SLOT_SECONDS", 1.0)
    findings = await tried(liars, lie)
    found = next(one for one in findings if one.code == code and evidence in one.evidence[0])
    assert found.commands
    assert found.subject == lie


@pytest.mark.finding("DOC003")
async def test_what_was_not_tried_in_time_is_named(liars: Daemon) -> None:
    findings = await tried(liars, "parrot", patience=0.0)
    assert [one.code for one in findings] == ["DOC003"]
    assert findings[0].evidence[0].startswith("not tested: a repeated request")


def test_a_broken_promise_makes_the_command_fail_and_a_missing_model_names_the_next_step(liars: Daemon) -> None:
    done = liars.cli("doctor", "--model", "stop")
    assert done.returncode == 1
    assert "RUN010" in done.stdout
    missing = liars.cli("doctor", "--model", "nobody")
    assert missing.returncode == 1
    assert "ollmlx pull nobody" in missing.stderr


@pytest.mark.model
@pytest.mark.mlx
@pytest.mark.slow
async def test_the_real_model_keeps_every_promise_and_its_daemon_is_healthy(
    tmp_path: Path, smollm2_models: Path
) -> None:
    server = Daemon(tmp_path / "daemon", settings={"storage": {"models": str(smollm2_models)}}).start()
    try:
        findings = await tried(server, "smollm2:135m", patience=240.0)
        examined = server.cli("doctor", "--json", "--config", str(server.config))
    finally:
        assert server.stop() == 0
    assert findings == []
    assert [one for one in json.loads(examined.stdout)["findings"] if one["severity"] != "info"] == []
