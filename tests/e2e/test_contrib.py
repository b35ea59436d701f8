"""The dashboard and the alert rules of `contrib`: Debian's Prometheus loads them and answers each of their queries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import StartDaemon

from ollmlx.testing import wait_until
from ollmlx.testing.routes import FakeService, web_app
from ollmlx_ops.routes import blueprint

CONTRIB = Path(__file__).parents[2] / "contrib"
RULES = CONTRIB / "prometheus" / "alerts.yml"
EXPRESSIONS = [
    target["expr"]
    for panel in json.loads((CONTRIB / "grafana" / "ollmlx.json").read_text("utf-8"))["panels"]
    for target in panel["targets"]
]
SUFFIX = re.compile(r"_(bucket|sum|count)$")


async def test_every_metric_that_is_named_is_exported() -> None:
    answer = await web_app(FakeService(), blueprint).test_client().get("/metrics")
    exported = set(re.findall(r"^# HELP (ollmlx_\w+)", await answer.get_data(as_text=True), re.MULTILINE))
    named = set(re.findall(r"\bollmlx_\w+", " ".join([*EXPRESSIONS, RULES.read_text("utf-8")])))
    assert {SUFFIX.sub("", name) for name in named} <= exported
    assert len(named) > 15


def config(folder: Path, address: str) -> Path:
    """The configuration of `contrib`, for another daemon, and quick."""
    text = (CONTRIB / "prometheus" / "prometheus.yml").read_text("utf-8").replace("127.0.0.1:11434", address)
    file = folder / "prometheus.yml"
    file.write_text(
        text.replace("- alerts.yml", f"- {RULES}") + "\nglobal: {scrape_interval: 1s, scrape_timeout: 1s}\n"
    )
    return file


@pytest.fixture
def prometheus(tmp_path: Path, daemon: StartDaemon, free_port: int) -> Iterator[str]:
    """The address of a Prometheus that reads a daemon which has answered a request."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    server = daemon(fakes={"parrot": {"tokens": 3}})
    server.post("/api/generate", {"model": "parrot", "prompt": "a", "stream": False})
    address = f"127.0.0.1:{free_port}"
    process = subprocess.Popen(
        [program, f"--config.file={config(tmp_path, server.address)}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address={address}", "--log.level=error"],
    )  # fmt: skip
    try:
        wait_until(lambda: ask(address, "query", query='up{job="ollmlx"}') == ["1"])
        yield address
    finally:
        process.terminate()
        process.wait()


def ask(address: str, what: str, **parameters: str) -> Any:
    """Ask Prometheus; the values of a query, or the data of anything else. None while it starts."""
    try:
        answer = httpx2.get(f"http://{address}/api/v1/{what}", params=parameters).json()
    except (httpx2.HTTPError, ValueError):
        return None
    assert answer["status"] == "success", (parameters, answer)
    return [one["value"][1] for one in answer["data"]["result"]] if what == "query" else answer["data"]


def test_each_alert_fires_when_it_should() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    command = ["promtool", "test", "rules", str(RULES.with_name("alerts.test.yml"))]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.e2e
def test_prometheus_loads_the_rules_and_answers_every_query_of_the_dashboard(prometheus: str) -> None:
    for expression in EXPRESSIONS:
        written = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        assert ask(prometheus, "query", query=written) is not None
    assert ask(prometheus, "query", query="sum(ollmlx_generated_tokens_total)") == ["3"]
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == re.findall(r"alert: (\w+)", RULES.read_text("utf-8"))
    assert {rule["state"] for rule in rules} == {"inactive"}
