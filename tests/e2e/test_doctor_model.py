"""`ollmlx doctor --model`: a correct model has no findings, and each kind of wrong answer is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx.doctor.daemon import DaemonClient
from ollmlx.doctor.report import Report
from ollmlx.doctor.selftest import trials
from ollmlx.doctor.selftest.subject import Subject
from ollmlx.errors.findings import Finding, Severity
from ollmlx.model.names import ModelName
from ollmlx.testing.daemon import Daemon
from ollmlx.testing.fake.script import ALL_CAPABILITIES
from ollmlx.text.addresses import Address

pytestmark = pytest.mark.e2e
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("cache", {"wrong_answers": "cache"}, "RUN010", "tokens came from the cache"),
    ("batch", {"wrong_answers": "batch", "rate": 200}, "RUN010", "2 requests at once"),
    ("repeat", {"wrong_answers": "repeat"}, "RUN010", "token 1 is"),
    ("seed", {"wrong_answers": "seed"}, "RUN010", ", then '"),
    ("schema", {"wrong_answers": "schema"}, "RUN010", "it is not JSON"),
    ("stop", {"wrong_answers": "stop"}, "RUN010", "expected"),
    ("blind", {"wrong_answers": "blind"}, "RUN010", "What is this?"),
    ("cancel", {"wrong_answers": "cancel", "rate": 200}, "RUN010", "2 clients disconnected"),
    ("zeros", {"say": " Car" * 40}, "RUN010", "' Car Car Car"),
    ("fat", {"memory_mib": 300}, "RUN017", "context: 512"),
]
"""A model, the script of its fake, and the code and the evidence of the finding."""
ROOM = {
    "runners": {"context_length": 512},
    "memory": {"prompt_cache": 0},
    "plugins": {"fake": {"weights": 128 * 1024 * 1024, "capabilities": [*ALL_CAPABILITIES, "vision"]}},
}
"""The reservation of each model is little more than its weights: only the model that allocates more exceeds it."""


@pytest.fixture(scope="module")
def wrong_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A daemon with one model for each kind of wrong answer, and a correct one."""
    models = {"parrot": {"parallel": 2}, **{name: {"parallel": 2, **script} for name, script, *_ in WRONG}}
    server = Daemon(tmp_path_factory.mktemp("wrong_models"), fakes=models, settings=ROOM).start()
    yield server
    assert server.stop() == 0


async def self_test_of(server: Daemon, name: str, **options: Any) -> Report:
    """Return the report of a self-test."""
    subject = Subject(DaemonClient(Address.parse(server.address), None), ModelName.parse(name))
    return await trials.self_test(subject, lambda what, holds, seconds: None, **options)


async def tried(server: Daemon, name: str, **options: Any) -> list[Finding]:
    """Return the findings of a self-test, without its notes."""
    report = await self_test_of(server, name, **options)
    return [finding for result in report.results for finding in result.findings if finding.severity is not Severity.OK]


def test_a_correct_model_has_no_findings_and_each_trial_is_shown(wrong_models: Daemon) -> None:
    done = wrong_models.cli("doctor", "--model", "parrot", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] == []
    assert all(f"✓ {guarantee}" in done.stderr for _, guarantee in trials.TRIALS)


@pytest.mark.finding("RUN010", "RUN017")
@pytest.mark.parametrize(("model", "code", "evidence"), [(name, *expected) for name, _, *expected in WRONG])
async def test_each_kind_of_wrong_answer_is_a_finding(
    wrong_models: Daemon, monkeypatch: pytest.MonkeyPatch, model: str, code: str, evidence: str
) -> None:
    monkeypatch.setattr(trials, "SLOT_SECONDS", 1.0)
    findings = await tried(wrong_models, model)
    found = next(one for one in findings if one.code == code and evidence in one.evidence[0])
    assert found.commands
    assert found.subject == model


@pytest.mark.finding("DOC002")
async def test_trials_that_were_not_done_in_time_are_named(wrong_models: Daemon) -> None:
    findings = await tried(wrong_models, "parrot", patience=0.0)
    assert [one.code for one in findings] == ["DOC002"]
    assert findings[0].evidence[0].startswith("not tested: a repeated request")


def test_a_wrong_answer_fails_the_command_and_a_missing_model_names_the_next_step(wrong_models: Daemon) -> None:
    done = wrong_models.cli("doctor", "--model", "stop")
    assert done.returncode == 1
    assert "RUN010" in done.stdout
    missing = wrong_models.cli("doctor", "--model", "nobody")
    assert missing.returncode == 1
    assert "ollmlx pull nobody" in missing.stderr


@pytest.mark.model
@pytest.mark.mlx
@pytest.mark.slow
async def test_the_real_model_passes_its_self_test_and_its_daemon_is_healthy(
    tmp_path: Path, smollm2_models: Path
) -> None:
    on_mlx = {"storage": {"models": str(smollm2_models)}, "models": {"smollm2:135m": {"backend": "mlx"}}}
    server = Daemon(tmp_path / "daemon", settings=on_mlx).start()
    try:
        report = await self_test_of(server, "smollm2:135m", patience=240.0)
        examined = server.cli("doctor", "server", "--deep", "--json", "--config", str(server.config))
    finally:
        assert server.stop() == 0
    (note,) = report.notes("model")
    assert "an answer is the same alone, beside others and from the cache" in note.title
    assert list(report.findings) == []
    assert [one for one in json.loads(examined.stdout)["findings"] if one["severity"] != "info"] == []
