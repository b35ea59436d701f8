"""Health endpoints, metrics, and `/api/daemon`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from ollmlx import __version__
from ollmlx.errors import Busy
from ollmlx.settings.model import SecuritySettings, Settings, StorageSettings
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.testing.waiting import eventually
from ollmlx.types import Admitted, Done, Prefill, RunnerInfo, RunnerState, Text
from ollmlx.web import RequestContext, state_of
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_ops.activity import KEPT, READ, Activity, last_lines
from ollmlx_ops.doctor import DoctorRuns
from ollmlx_ops.metrics import Metrics, PoolMetrics
from ollmlx_ops.routes import blueprint, problems

GUEST: dict[str, Any] = {"key": "guest", "models": ["other*"]}


@pytest.fixture
def service(tmp_path: Path) -> FakeService:
    return FakeService(settings=Settings(storage=StorageSettings(models=tmp_path / "models")))


async def text(client: Any) -> str:
    return str(await (await client.get("/metrics")).get_data(as_text=True))


async def test_health_endpoints_need_no_key_and_metrics_do(service: FakeService) -> None:
    service.settings = service.settings.model_copy(update={"security": SecuritySettings(api_keys=("k",))})
    client = web_app(service, blueprint).test_client()
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.get("/metrics")).status_code == 401


async def test_a_daemon_that_drains_is_alive_and_not_ready(service: FakeService) -> None:
    web = web_app(service, blueprint)
    client = web.test_client()
    assert (await client.get("/readyz")).status_code == 200
    state_of(web).drain.begin()
    refused = await client.get("/readyz")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert (await refused.get_json())["error"] == "the server is shutting down"
    assert (await client.get("/livez")).status_code == 200


def test_readiness_names_the_fault_of_the_models_folder(tmp_path: Path) -> None:
    def problems_of(folder: Path) -> list[str]:
        return problems(Settings(storage=StorageSettings(models=folder)))

    assert problems_of(tmp_path) == []
    assert problems_of(tmp_path / "new" / "deeper") == []
    (tmp_path / "file").write_text("")
    assert problems_of(tmp_path / "file") == ["the models folder is not a folder"]
    assert problems_of(tmp_path / "file" / "below") == ["the models folder does not exist and cannot be created"]


async def test_a_model_that_loads_or_failed_does_not_make_the_daemon_unready(service: FakeService) -> None:
    service.runners = [
        RunnerInfo(id="a", model=installed("a"), backend="x", state=state)
        for state in (RunnerState.STARTING, RunnerState.FAILED)
    ]
    assert (await web_app(service, blueprint).test_client().get("/readyz")).status_code == 200


async def test_metrics_count_requests_tokens_and_runners(service: FakeService) -> None:
    service.runners = [
        RunnerInfo(
            id="a",
            model=installed("tiny"),
            backend="mlx",
            state=RunnerState.READY,
            memory=123,
            started_at=datetime.now(UTC),
        )
    ]
    service.outcomes = [
        Admitted(),
        Text(text="a"),
        Done(prompt_tokens=9, cached_tokens=4, generated_tokens=10, decode_ns=10**9),
    ]
    client = web_app(service, blueprint, ollama).test_client()
    await client.post("/api/generate", json={"model": "tiny:latest", "prompt": "x"})
    await client.post("/api/generate", json={"model": "invented", "prompt": "x"})
    await client.post("/api/embed", json={"model": "tiny", "input": ["x", "y"]})
    await client.get("/no/such/path")
    found = await text(client)
    for line in (
        'ollmlx_requests_total{method="POST",route="/api/generate",status="200"} 1.0',
        'ollmlx_requests_total{method="POST",route="/api/generate",status="404"} 1.0',
        'ollmlx_requests_total{method="other",route="other",status="404"} 1.0',
        'ollmlx_prompt_tokens_total{model="tiny"} 11.0',
        'ollmlx_cached_tokens_total{model="tiny"} 4.0',
        'ollmlx_generated_tokens_total{model="tiny"} 10.0',
        'ollmlx_tokens_per_second_sum{model="tiny"} 10.0',
        'ollmlx_runner_memory_bytes{backend="mlx",model="tiny",state="ready"} 123.0',
        "ollmlx_requests_in_progress 1.0",
    ):
        assert line in found
    assert "invented" not in found
    assert "no/such/path" not in found


async def test_the_events_of_the_pool_are_counted() -> None:
    metrics = Metrics(list)
    pool = metrics.pool
    pool.on_load("m:latest", "mlx", 1.5, "ok")
    pool.on_load("m:latest", "mlx", 1.5, "failed")
    pool.on_evict("m:latest", "memory")
    pool.on_restart("m:latest", "SIGKILL")
    pool.on_queue(3)
    pool.on_admit("m:latest", 0.75, 0.5)
    pool.on_reject("m:latest", "queue_full")
    pool.on_cancel("m:latest", "queued")
    pool.on_retry("m:latest")
    found = metrics.text().decode()
    for line in (
        'ollmlx_loads_total{backend="mlx",model="m",outcome="failed"} 1.0',
        'ollmlx_load_seconds_count{model="m"} 1.0',
        'ollmlx_evictions_total{model="m",reason="memory"} 1.0',
        'ollmlx_restarts_total{cause="SIGKILL",model="m"} 1.0',
        "ollmlx_queue_depth 3.0",
        'ollmlx_queue_wait_seconds_sum{model="m"} 0.25',
        'ollmlx_rejected_total{model="m",reason="queue_full"} 1.0',
        'ollmlx_cancelled_total{model="m",phase="queued"} 1.0',
        'ollmlx_retries_total{model="m"} 1.0',
    ):
        assert line in found


def test_metrics_observe_every_event_of_the_pool() -> None:
    calls = {name for name in vars(PoolObserver) if name.startswith("on_")}
    assert calls == {name for name in vars(PoolMetrics) if name.startswith("on_")}


async def test_two_daemons_in_one_process_have_metrics_of_their_own(service: FakeService) -> None:
    first, second = web_app(service, blueprint).test_client(), web_app(service, blueprint).test_client()
    await first.get("/livez")
    assert 'route="/livez"' in await text(first)
    assert 'route="/livez"' not in await text(second)


async def test_a_failed_runner_has_no_uptime(service: FakeService) -> None:
    begun = datetime(2026, 1, 2, tzinfo=UTC)
    service.runners = [
        RunnerInfo(id=name, model=installed(name), backend="mlx", state=state, started_at=begun)
        for name, state in (("up", RunnerState.READY), ("down", RunnerState.FAILED))
    ]
    found = await text(web_app(service, blueprint).test_client())
    assert 'ollmlx_runner_uptime_seconds{backend="mlx",model="up"' in found
    assert 'ollmlx_runner_uptime_seconds{backend="mlx",model="down"' not in found
    assert 'ollmlx_runner_memory_bytes{backend="mlx",model="down",state="failed"} 0.0' in found


async def test_a_daemon_describes_itself_to_clients_on_its_machine(service: FakeService) -> None:
    service.runners = [
        RunnerInfo(
            id="a", model=installed("tiny"), backend="mlx", state=RunnerState.FAILED, restarts=2,
            last_error="it died", last_code="RUN002", last_words=("bye",),
        )
    ]  # fmt: skip
    found = await (await web_app(service, blueprint).test_client().get("/api/daemon")).get_json()
    assert found["models_folder"] == str(service.settings.models_folder)
    assert found["version"] == __version__
    (runner,) = found["runners"]
    assert (runner["name"], runner["state"], runner["code"]) == ("tiny", "failed", "RUN002")
    assert (runner["restarts"], runner["error"], runner["last_words"]) == (2, "it died", ["bye"])
    assert (runner["active"], runner["notes"], runner["started_at"]) == (0, [], None), "what the doctor looks at"


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.168.1.9", 403)])
async def test_a_daemon_describes_itself_to_no_other_machine(service: FakeService, peer: str, status: int) -> None:
    open_to_all = {
        "server": service.settings.server.model_copy(update={"host": "0.0.0.0"}),
        "security": SecuritySettings(allow_no_auth=True),
    }
    service.settings = service.settings.model_copy(update=open_to_all)
    client = web_app(service, blueprint).test_client()
    answer = await client.get("/api/daemon", scope_base={"client": (peer, 5000)}, headers={"Host": "127.0.0.1"})
    assert answer.status_code == status


async def test_the_end_of_the_log_is_for_operators_and_never_has_prompts(tmp_path: Path) -> None:
    def client_of(**settings: Any) -> Any:
        chosen = Settings.model_validate({"storage": {"state": str(tmp_path)}, **settings})
        return web_app(FakeService(settings=chosen), blueprint).test_client()

    assert await (await client_of().get("/api/daemon/log")).get_data() == b""
    (tmp_path / "logs").mkdir()
    lines = [f'{{"message":"line {number}"}}' for number in range(400)]
    (tmp_path / "logs" / "daemon.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = await (await client_of().get("/api/daemon/log")).get_data(as_text=True)
    assert told.splitlines() == lines[-300:]
    selected = await (await client_of().get("/api/daemon/log?contains=line 39")).get_data(as_text=True)
    assert selected.splitlines() == [lines[39], *lines[390:]]
    assert (await client_of(logging={"prompts": True}).get("/api/daemon/log")).status_code == 403
    assert (await client_of(security={"api_keys": ["k"]}).get("/api/daemon/log")).status_code == 401


def test_a_line_that_begins_before_the_part_that_is_read_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("x" * READ + "\nlast\n", encoding="utf-8")
    assert last_lines(file, 10) == ["last"]


async def test_a_request_that_is_served_is_told_with_its_client_and_progress(service: FakeService) -> None:
    go_on = asyncio.Event()
    seen = Prefill(done=40, total=80, cached=8, missed=("near token 8", "secret words"))
    service.outcomes = [Admitted(), seen, Text(text="a"), Text(text="b"), go_on, Done()]
    service.settings = service.settings.model_copy(
        update={"security": SecuritySettings.model_validate({"keys": {"anna": {"key": "k"}, "ben": GUEST}})}
    )
    web = web_app(service, blueprint, ollama)
    anna, ben = ({"Authorization": f"Bearer {key}"} for key in ("k", GUEST["key"]))
    client = web.test_client()

    async def told(headers: dict[str, str]) -> list[dict[str, Any]]:
        answer = await client.get("/api/daemon/requests", headers=headers)
        return list((await answer.get_json())["requests"])

    asked = asyncio.create_task(
        client.post("/api/generate", json={"model": "tiny", "prompt": "x", "stream": False}, headers=anna)
    )
    await eventually(lambda: any(one.pieces == 2 for one in state_of(web).drain.requests))
    (request,) = await told(anna)
    known = {name: request[name] for name in ("client", "model", "state", "tokens", "missed", "prompt")}
    assert known == {
        "client": "anna", "model": "tiny", "state": "answering", "tokens": 2, "missed": "near token 8",
        "prompt": {"done": 40, "total": 80, "cached": 8},
    }  # fmt: skip
    assert await told(ben) == []
    go_on.set()
    await asked
    assert await told(anna) == []


def test_samples_hold_the_last_hour_and_no_more() -> None:
    ended = RequestContext("a", "POST", "/api/chat", pieces=30, first_ns=2 * 10**8, done=Done(generated_tokens=40))
    running = [RequestContext("b", "POST", "/api/chat", pieces=60)]
    activity = Activity(lambda: 3, lambda: 7, lambda: running)
    activity.count(ended)
    activity.sample(1.0)
    running[0].pieces += 20
    for second in range(2, KEPT + 2):
        activity.sample(float(second))
    told = activity.history()
    assert {len(told[name]) for name in told if name != "every"} == {KEPT}
    assert (told["time"][0], told["tokens_per_second"][:2], told["queue"][0], told["memory"][0]) == (2, [2, 0], 3, 7)
    fresh = Activity(lambda: 0, lambda: 0, lambda: running)
    fresh.count(ended)
    fresh.sample(1.0)
    assert (fresh.history()["tokens_per_second"], fresh.history()["first_token_ms"]) == ([12.0], [200.0])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/daemon/settings"),
        ("POST", "/api/daemon/doctor"),
        ("POST", "/api/daemon/doctor/bundle"),
        ("GET", "/api/daemon/doctor/CFG001"),
    ],
)
async def test_a_key_for_some_models_and_other_machines_do_not_administrate(
    service: FakeService, method: str, path: str
) -> None:
    security = SecuritySettings.model_validate({"keys": {"ben": GUEST}})
    service.settings = service.settings.model_copy(update={"security": security})
    client: Any = web_app(service, blueprint).test_client()
    guest = {"Authorization": f"Bearer {GUEST['key']}"}
    assert (await client.open(path, method=method, headers=guest)).status_code == 403
    server = service.settings.server.model_copy(update={"host": "0.0.0.0"})
    everyone = {"server": server, "security": SecuritySettings(allow_no_auth=True)}
    service.settings = service.settings.model_copy(update=everyone)
    client = web_app(service, blueprint).test_client()
    options = {"scope_base": {"client": ("192.168.1.9", 5000)}, "headers": {"Host": "127.0.0.1"}}
    assert (await client.open(path, method=method, **options)).status_code == 403


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_who_comes_through_a_proxy_or_a_tunnel_is_not_this_machine(service: FakeService, header: str) -> None:
    client: Any = web_app(service, blueprint).test_client()
    assert (await client.get("/api/daemon/settings")).status_code == 200
    for path in ("/api/daemon/settings", "/api/daemon/log", "/api/daemon"):
        assert (await client.get(path, headers={header: "for=203.0.113.9"})).status_code == 403


async def test_one_doctor_runs_at_a_time_and_ends_with_its_request() -> None:
    started: list[int] = []

    @contextmanager
    def guarded(pid: int) -> Iterator[None]:
        started.append(pid)
        yield

    runs = DoctorRuns(guarded)
    first = asyncio.create_task(runs.report("key"))
    await eventually(lambda: started)
    with pytest.raises(Busy):
        await runs.page("CFG001")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not psutil.pid_exists(started[0])
