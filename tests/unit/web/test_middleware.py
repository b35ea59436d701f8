"""What every request meets before and after its route."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
from typing import Any

import orjson
import pytest
from quart import Blueprint

from ollmlx import Service
from ollmlx.errors import NotFound
from ollmlx.settings import SecuritySettings, ServerSettings, Settings
from ollmlx.testing import eventually
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.types import Admitted, Done, Prefill, Text
from ollmlx.web import Exchange, caller, declare_errors, json_answer, ndjson, read_json, state_of, tracked
from ollmlx.web.kit.errors import Failure
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
        from ollmlx import ModelName

        async def lines() -> Any:
            async for event in tracked(service.generate(ModelName.parse("tiny"), None, caller=caller("tiny"))):  # type: ignore[arg-type]
                if isinstance(event, Text):
                    yield orjson.dumps({"text": event.text}) + b"\n"

        return await ndjson(lines())

    @made.get("/shaped/<what>")
    async def shaped(what: str) -> Any:
        raise NotFound(f"no {what}", hint="look elsewhere") if what == "thing" else ZeroDivisionError("secret")

    @made.get("/who")
    async def who() -> Any:
        return json_answer(caller("m").model_dump())

    return made


def client_of(service: FakeService | None = None, **server: Any) -> Any:
    settings = Settings(server=ServerSettings(**server))
    service = service or FakeService()
    service.settings = settings
    return web_app(service, blueprint).test_client()


async def test_a_request_id_is_taken_over_or_made() -> None:
    client = client_of()
    assert (await client.get("/who", headers={"X-Request-ID": "abc-1"})).headers["X-Request-ID"] == "abc-1"
    made = (await client.get("/who", headers={"X-Request-ID": "a b\x1b"})).headers["X-Request-ID"]
    assert made.startswith("req-")


async def test_the_caller_is_known_by_id_address_and_priority() -> None:
    told = await (await client_of().get("/who", headers={"X-Request-ID": "r1", "X-Priority": "HIGH"})).get_json()
    assert told["request_id"] == "r1"
    assert told["priority"] == "high"
    told = await (await client_of().get("/who", headers={"X-Priority": "urgent"})).get_json()
    assert told["priority"] == "normal"


async def test_a_preflight_of_a_local_page_is_granted_and_of_a_stranger_refused() -> None:
    client = client_of()
    asked = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-stainless-os, x-evil",
    }
    granted = await client.options("/echo", headers=asked)
    assert granted.status_code == 204
    assert granted.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "x-stainless-os" in granted.headers["Access-Control-Allow-Headers"]
    assert "x-evil" not in granted.headers["Access-Control-Allow-Headers"]
    refused = await client.options("/echo", headers={**asked, "Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers


async def test_a_local_page_may_read_the_answer() -> None:
    answer = await client_of().get("/who", headers={"Origin": "http://localhost:3000"})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer.headers["Vary"] == "Origin"


async def test_a_key_is_asked_for_before_the_body_and_before_the_route() -> None:
    service = FakeService(settings=Settings(security=SecuritySettings(api_keys=("sesame",))))
    client = web_app(service, blueprint).test_client()
    for path in ("/who", "/nowhere"):
        refused = await client.get(path, headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert (await client.get("/who", headers={"Authorization": "Bearer sesame"})).status_code == 200
    told = await (await client.get("/who", headers={"x-api-key": "sesame"})).get_json()
    assert told["client"].startswith("key-")


async def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = FakeService(settings=Settings(security=SecuritySettings(api_keys=("sesame",))))
    client = web_app(service, blueprint).test_client()
    await client.get("/who", headers={"Authorization": "Bearer sesame"})
    await client.get("/who", headers={"Authorization": "Bearer sesame2"})
    assert "sesame" not in caplog.text


async def test_a_body_beyond_the_limit_is_refused_by_its_announced_length_or_as_it_comes() -> None:
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
    asked = [("gzip", fits, 200), ("gzip", grows, 413), ("gzip", b"{}", 400), ("br", fits, 415)]
    for encoding, data, status in asked:
        answer = await client.post("/echo", data=data, headers={"Content-Encoding": encoding})
        assert answer.status_code == status, encoding
    assert b"send it as it is, or with gzip or zstd" in await answer.get_data()


async def test_a_body_that_does_not_come_is_given_up() -> None:
    client = client_of(body_timeout=0.05)
    async with client.request("/echo", method="POST") as connection:
        await connection.send(b'{"a":')
        told = await asyncio.wait_for(connection.receive(), 60)
        assert connection.status_code == 408
    assert "did not arrive in time" in orjson.loads(told)["error"]


async def test_errors_take_the_shape_of_the_family_whose_path_it_is() -> None:
    client = client_of()
    told = await client.get("/shaped/thing")
    assert (told.status_code, await told.get_json()) == (404, {"oops": "no thing"})
    refused = await client.get("/shaped/thing", headers={"Host": "evil.example"})
    assert list(await refused.get_json()) == ["oops"]


async def test_a_bug_is_a_500_with_the_request_id_and_its_traceback_only_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await client_of().get("/shaped/bug", headers={"X-Request-ID": "r7"})
    assert answer.status_code == 500
    assert await answer.get_json() == {"oops": "internal error (request r7)"}
    assert "ZeroDivisionError: secret" in caplog.text


async def test_unknown_routes_and_methods_are_told_as_ollamas_router_does() -> None:
    client = client_of()
    unknown = await client.get("/nowhere")
    assert (unknown.status_code, await unknown.get_data()) == (404, b"404 page not found")
    wrong = await client.get("/echo")
    assert (wrong.status_code, await wrong.get_data()) == (405, b"405 method not allowed")
    assert "POST" in wrong.headers["Allow"]


async def test_the_answers_headers_tell_of_waiting_loading_and_dropped_tokens() -> None:
    service = FakeService()
    service.outcomes = [
        Admitted(queue_ns=1_500_000, load_ns=2_000_000),
        Prefill(done=1, total=1, dropped=7),
        Text(text="a"),
        Done(),
    ]
    answer = await client_of(service).post("/stream")
    assert answer.headers["X-Ollmlx-Queue-Ms"] == "1.5"
    assert answer.headers["X-Ollmlx-Load-Ms"] == "2.0"
    assert answer.headers["X-Ollmlx-Dropped-Tokens"] == "7"


async def test_a_stream_that_ends_without_done_is_an_error_and_never_a_success() -> None:
    service = FakeService()
    service.outcomes = [Text(text="a")]
    lines = (await (await client_of(service).post("/stream")).get_data()).splitlines()
    assert orjson.loads(lines[0]) == {"text": "a"}
    assert "without a final record" in orjson.loads(lines[-1])["error"]


async def test_one_line_and_one_observation_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ollmlx.access")
    service = FakeService()
    seen: list[Exchange] = []
    service.say("a", "b")
    web = web_app(service, blueprint)
    state_of(web).observers.append(seen.append)
    await web.test_client().post("/stream", headers={"X-Request-ID": "r9"})
    exchange = seen[0]
    assert (exchange.status, exchange.route, exchange.model, exchange.id) == (200, "/stream", "tiny", "r9")
    assert exchange.done is not None
    assert exchange.first_ns > 0
    [line] = caplog.messages
    assert line.startswith("POST /stream 200 ")
    for told in ("model=tiny", "queue_ms=1.0", "load_ms=2.0", "prompt_tokens=3", "tokens=2", "finish=stop"):
        assert told in line


async def test_a_client_that_leaves_cancels_the_work_and_is_written_as_499() -> None:
    service = FakeService()
    seen: list[Exchange] = []
    never = asyncio.Event()
    service.outcomes = [Admitted(), Text(text="a"), never]
    web = web_app(service, blueprint)
    state_of(web).observers.append(seen.append)
    async with web.test_client().request("/stream", method="POST") as connection:
        await connection.send_complete()
        assert b'"a"' in await connection.receive()
        assert service.open_streams == 1
        await connection.disconnect()
    assert service.open_streams == 0
    assert seen[0].status == 499


async def test_draining_refuses_new_work_and_still_answers_questions() -> None:
    web = web_app(FakeService(), blueprint)
    state_of(web).drain.begin()
    refused = await web.test_client().post("/echo", json={})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Connection"] == "close"
    assert (await web.test_client().get("/who")).status_code == 200


async def test_those_who_come_while_it_drains_do_not_hold_the_daemon() -> None:
    drain = Drain()
    early, late = Exchange("a", "POST", "/x"), Exchange("b", "POST", "/x")
    drain.enter(early)
    drain.begin()
    drain.enter(late)
    assert drain.running == 1
    drain.leave(early)
    assert await drain.idle(1)
    drain.leave(late)


@pytest.mark.parametrize(("patience", "still"), [(30.0, " for another 30 s"), (math.inf, ""), (0.0, None)])
def test_a_drain_tells_how_long_running_requests_may_keep_the_daemon(patience: float, still: str | None) -> None:
    drain = Drain()
    assert drain.story() == ""
    drain.enter(Exchange("a", "POST", "/x"))
    drain.begin(patience)
    may = f"; 1 running request may go on{still}" if still is not None else ""
    assert drain.story() == f"the server is shutting down{may}"
    drain.end()
    assert drain.story() == "the server is shutting down"


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
    assert await drain.idle(1)
    assert service.open_streams == 0


async def test_the_end_of_the_drain_answers_503_before_the_first_record() -> None:
    service = FakeService()
    service.outcomes = [Admitted(), asyncio.Event()]
    web = web_app(service, blueprint)
    asking = asyncio.ensure_future(web.test_client().post("/stream"))
    await eventually(lambda: service.open_streams)
    state_of(web).drain.begin()
    state_of(web).drain.end()
    answer = await asking
    assert answer.status_code == 503
    assert service.open_streams == 0


async def test_settings_that_changed_count_for_the_next_request() -> None:
    service = FakeService()
    web = web_app(service, blueprint)
    client = web.test_client()
    assert (await client.get("/who", headers={"Host": "box.lan"})).status_code == 403
    state_of(web).configured.settings = Settings(server=ServerSettings(hosts=("box.lan",)))
    assert (await client.get("/who", headers={"Host": "box.lan"})).status_code == 200


def test_a_failure_keeps_what_a_shape_may_show() -> None:
    failure = Failure(404, "not_found", "no", code="MDL002", hint="pull it")
    from ollmlx.web import plain_shape

    assert plain_shape(failure) == {"error": "no", "code": "MDL002", "hint": "pull it"}
