"""The middleware: what happens to every request before and after its route."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from quart import Blueprint

from ollmlx import ModelName, Service
from ollmlx.errors import NotFound
from ollmlx.settings.model import SecuritySettings, ServerSettings, Settings
from ollmlx.testing import eventually
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.types import Admitted, Done, Prefill, Text
from ollmlx.web import RequestContext, caller, declare_errors, json_answer, ndjson, read_json, state_of, tracked
from ollmlx.web.middleware import Message, Middleware, Receive, Send
from ollmlx.web.server.drain import Drain


def blueprint(service: Service) -> Blueprint:
    """A family with one route of each kind."""
    made = Blueprint("toy", __name__)
    declare_errors(made, lambda failure: {"oops": failure.message}, "/shaped/")

    @made.post("/echo")
    async def echo() -> Any:
        return json_answer(await read_json())

    @made.post("/stream")
    async def stream() -> Any:
        async def lines() -> Any:
            async for event in tracked(service.generate(ModelName.parse("tiny"), None, caller=caller("tiny"))):  # type: ignore[arg-type]
                if isinstance(event, Text):
                    yield orjson.dumps({"text": event.text}) + b"\n"

        return await ndjson(lines())

    @made.get("/shaped/<what>")
    async def shaped(what: str) -> Any:
        raise NotFound(f"no {what}", hint="look elsewhere") if what == "thing" else ZeroDivisionError("secret")

    @made.get("/caller")
    async def caller_() -> Any:
        return json_answer(caller("m").model_dump())

    return made


def client_of(service: FakeService | None = None, **server: Any) -> Any:
    settings = Settings(server=ServerSettings(**server))
    service = service or FakeService()
    service.settings = settings
    return web_app(service, blueprint).test_client()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-ID": "abc-1", "X-Priority": "HIGH"}, {"request_id": "abc-1", "priority": "high"}),
        ({"X-Request-ID": "abc-1", "X-Priority": "urgent"}, {"request_id": "abc-1", "priority": "normal"}),
        ({"X-Request-ID": "a b\x1b"}, {"priority": "normal", "client": "local"}),
    ],
)
async def test_the_caller_is_known_by_id_and_priority(headers: dict[str, str], expected: dict[str, str]) -> None:
    answer = await client_of().get("/caller", headers=headers)
    found = await answer.get_json()
    assert {**found, **expected} == found
    assert answer.headers["X-Request-ID"] == found["request_id"]
    assert found["request_id"].startswith(("abc-1", "req-"))


async def test_a_local_page_may_send_requests_and_read_answers_and_a_foreign_page_may_not() -> None:
    client = client_of()
    preflight = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-stainless-os, x-evil",
    }
    granted = await client.options("/echo", headers=preflight)
    assert granted.status_code == 204
    assert granted.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "x-stainless-os" in granted.headers["Access-Control-Allow-Headers"]
    assert "x-evil" not in granted.headers["Access-Control-Allow-Headers"]
    answer = await client.get("/caller", headers={"Origin": "http://localhost:3000"})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer.headers["Vary"] == "Origin"
    refused = await client.options("/echo", headers={**preflight, "Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers


async def test_a_key_is_checked_before_the_route() -> None:
    service = FakeService(settings=Settings(security=SecuritySettings(api_keys=("sesame",))))
    client = web_app(service, blueprint).test_client()
    for path in ("/caller", "/nowhere"):
        refused = await client.get(path, headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert (await client.get("/caller", headers={"Authorization": "Bearer sesame"})).status_code == 200
    body = await (await client.get("/caller", headers={"x-api-key": "sesame"})).get_json()
    assert body["client"].startswith("key-")


@pytest.mark.fault(41)
async def test_requests_start_in_order_and_health_endpoints_before_them() -> None:
    started: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        started.append(scope["path"])

    async def request(path: str) -> None:
        scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
        await middleware(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    middleware = Middleware(app, state_of(web_app(FakeService(), blueprint)))
    paths = [f"/{number}" for number in range(50)]
    await asyncio.gather(*map(request, [*paths, "/livez"]))
    assert [path for path in started if path != "/livez"] == paths
    assert started.index("/livez") < len(paths) // 2


async def test_a_body_beyond_the_limit_is_refused_by_its_announced_length_or_while_it_is_received() -> None:
    client = client_of(max_body=1000)
    announced = await client.post("/echo", data=b'{"a": "' + b"x" * 2000 + b'"}')
    assert announced.status_code == 413
    async with client.request("/echo", method="POST") as connection:
        for _ in range(4):
            await connection.send(b" " * 500)
        await connection.send_complete()
    answer = await connection.as_response()
    assert answer.status_code == 413
    assert (await answer.get_json())["error"] == "request body too large"


async def test_a_compressed_body_is_read_within_the_same_limit_and_an_unknown_one_is_refused() -> None:
    client = client_of(max_body=1000)
    fits, grows = gzip.compress(b'{"a":1}'), gzip.compress(b'{"a":"' + b"x" * 2000 + b'"}')
    cases = [("gzip", fits, 200), ("gzip", grows, 413), ("gzip", b"{}", 400), ("br", fits, 415)]
    for encoding, data, status in cases:
        answer = await client.post("/echo", data=data, headers={"Content-Encoding": encoding})
        assert answer.status_code == status, encoding
    assert b"send it as it is, or with gzip or zstd" in await answer.get_data()


async def test_errors_have_the_shape_of_the_route_family() -> None:
    client = client_of()
    answer = await client.get("/shaped/thing")
    assert (answer.status_code, await answer.get_json()) == (404, {"oops": "no thing"})
    refused = await client.get("/shaped/thing", headers={"Host": "evil.example"})
    assert list(await refused.get_json()) == ["oops"]


async def test_a_bug_is_a_500_with_the_request_id_and_its_traceback_only_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await client_of().get("/shaped/bug", headers={"X-Request-ID": "r7"})
    assert answer.status_code == 500
    assert await answer.get_json() == {"oops": "internal error (request r7)"}
    assert "ZeroDivisionError: secret" in caplog.text


async def test_unknown_routes_and_methods_are_answered_as_by_ollamas_router() -> None:
    client = client_of()
    unknown = await client.get("/nowhere")
    assert (unknown.status_code, await unknown.get_data()) == (404, b"404 page not found")
    wrong = await client.get("/echo")
    assert (wrong.status_code, await wrong.get_data()) == (405, b"405 method not allowed")
    assert "POST" in wrong.headers["Allow"]


async def test_response_headers_give_queue_time_load_time_and_dropped_tokens() -> None:
    service = FakeService()
    service.outcomes = [Admitted(queue_ns=1_500_000, load_ns=2_000_000), Prefill(done=1, total=1, dropped=7), Done()]
    headers = (await client_of(service).post("/stream")).headers
    assert (headers["X-Ollmlx-Queue-Ms"], headers["X-Ollmlx-Load-Ms"]) == ("1.5", "2.0")
    assert headers["X-Ollmlx-Dropped-Tokens"] == "7"


async def test_one_line_and_one_observation_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ollmlx.access")
    service = FakeService()
    seen: list[RequestContext] = []
    service.say("a", "b")
    web = web_app(service, blueprint)
    state_of(web).observers.append(seen.append)
    await web.test_client().post("/stream", headers={"X-Request-ID": "r9"})
    context = seen[0]
    assert (context.status, context.route, context.model, context.id) == (200, "/stream", "tiny", "r9")
    assert context.done is not None
    assert context.first_ns > 0
    [line] = caplog.messages
    assert line.startswith("POST /stream 200 ")
    for figure in ("model=tiny", "queue_ms=1.0", "load_ms=2.0", "prompt_tokens=3", "tokens=2", "finish=stop"):
        assert figure in line


async def test_draining_refuses_new_work_and_still_answers_get_requests() -> None:
    web = web_app(FakeService(), blueprint)
    state_of(web).drain.begin()
    refused = await web.test_client().post("/echo", json={})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Connection"] == "close"
    assert (await web.test_client().get("/caller")).status_code == 200


async def test_requests_that_arrive_during_the_drain_are_not_waited_for() -> None:
    drain = Drain()
    early, late = RequestContext("a", "POST", "/x"), RequestContext("b", "POST", "/x")
    drain.enter(early)
    drain.begin()
    drain.enter(late)
    assert drain.running == 1
    drain.leave(early)
    assert await drain.idle(60)
    drain.leave(late)


@pytest.mark.parametrize(("timeout", "still"), [(30.0, " for another 30 s"), (math.inf, ""), (0.0, None)])
def test_a_drain_states_how_long_running_requests_may_go_on(
    timeout: float, still: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollmlx.web.server.drain.time", SimpleNamespace(monotonic=lambda: 100.0))
    drain = Drain()
    assert drain.status() == ""
    drain.enter(RequestContext("a", "POST", "/x"))
    drain.begin(timeout)
    may = f"; 1 running request may go on{still}" if still is not None else ""
    assert drain.status() == f"the server is shutting down{may}"
    drain.end()
    assert drain.status() == "the server is shutting down"


async def test_the_end_of_the_drain_gives_each_stream_its_error_record() -> None:
    service = FakeService()
    service.outcomes = [Admitted(), Text(text="a"), asyncio.Event()]
    web = web_app(service, blueprint)
    drain = state_of(web).drain
    async with web.test_client().request("/stream", method="POST") as connection:
        await connection.send_complete()
        await connection.receive()
        assert drain.running == 1
        drain.begin()
        drain.end()
        last = await connection.receive()
    assert orjson.loads(last) == {"error": "the server is shutting down"}
    assert await drain.idle(60)
    assert service.open_streams == 0


async def test_the_end_of_the_drain_answers_503_before_the_first_record() -> None:
    service = FakeService()
    service.outcomes = [Admitted(), asyncio.Event()]
    web = web_app(service, blueprint)
    asking = asyncio.ensure_future(web.test_client().post("/stream"))
    await eventually(lambda: service.open_streams)
    state_of(web).drain.begin()
    state_of(web).drain.end()
    assert (await asking).status_code == 503
    assert service.open_streams == 0


async def test_changed_settings_apply_to_the_next_request() -> None:
    service = FakeService()
    web = web_app(service, blueprint)
    client = web.test_client()
    assert (await client.get("/caller", headers={"Host": "box.lan"})).status_code == 403
    state_of(web).app.settings = Settings(server=ServerSettings(hosts=("box.lan",)))
    assert (await client.get("/caller", headers={"Host": "box.lan"})).status_code == 200
