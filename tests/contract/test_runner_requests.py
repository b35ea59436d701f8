"""The Runner Protocol on the wire: the order of events, cancellation, errors, the log."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.protocol import Detokenized, Problem, TokenizeRequest, Tokens, decode_event
from ollmlx.testing import RunnerProcess, eventually, fake_runner
from ollmlx.testing.waiting import HANG_GUARD
from ollmlx.types import EmbedRequest, Failed, GenerateRequest, Message

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def runner() -> AsyncIterator[RunnerProcess]:
    async with fake_runner() as started:
        await started.ready()
        yield started


async def test_each_event_arrives_when_it_happens(runner: RunnerProcess) -> None:
    async with runner.stream(GenerateRequest(prompt="fake:fault=hang@2 a b c")) as answer:
        lines = [await asyncio.wait_for(answer.content.readline(), HANG_GUARD) for _ in range(3)]
    assert [decode_event(line).type for line in lines] == ["prefill", "text", "text"]


async def test_events_that_are_ready_together_share_a_write(runner: RunnerProcess) -> None:
    async with runner.stream(GenerateRequest(prompt="fake:tokens=5000")) as answer:
        pieces = [piece async for piece in answer.content.iter_any()]
    assert sum(piece.count(b"\n") for piece in pieces) == 5002
    assert len(pieces) < 500


@pytest.mark.parametrize(
    ("phase", "prompt"),
    [
        ("before the first event", "fake:fault=hang a b"),
        ("during prefill", "fake:prefill=100000 fake:prefill_ms=50 a b"),
        ("mid-stream", "fake:rate=20 fake:tokens=100000"),
        ("while the compute is stuck", "fake:fault=hang@1 a b"),
        ("while the reader does not read", "fake:tokens=100000"),
    ],
)
@pytest.mark.fault(40)
async def test_closing_the_connection_frees_the_slot_at_once(runner: RunnerProcess, phase: str, prompt: str) -> None:
    request = GenerateRequest(prompt=prompt)
    asking = asyncio.create_task(_never_read(runner, request))
    await eventually(lambda: _counts(runner, 1, 0), because=f"the request is {phase}")
    if phase == "while the reader does not read":
        await _stalled(runner)
    asking.cancel()
    await asyncio.wait([asking])
    await eventually(lambda: _counts(runner, 0, 0), because="the slot is free, although no prompt above ends by itself")


async def _never_read(runner: RunnerProcess, request: GenerateRequest) -> None:
    async with runner.stream(request):
        await asyncio.Event().wait()


async def _counts(runner: RunnerProcess, active: int, queued: int) -> bool:
    status = await runner.status()
    return (status.active, status.queued) == (active, queued)


async def _stalled(runner: RunnerProcess) -> None:
    async def stands_still() -> bool:
        before = (await runner.status()).progress
        await asyncio.sleep(0.1)
        return (await runner.status()).progress == before

    await eventually(stands_still, because="a full socket stops the engine")


async def test_requests_beyond_the_batch_width_wait_and_status_answers_while_every_slot_is_stuck() -> None:
    async with fake_runner(parallel=1, fault="hang@1") as runner:
        await runner.ready()
        first, second = (asyncio.create_task(_never_read(runner, GenerateRequest(prompt="a b"))) for _ in range(2))
        await eventually(lambda: _counts(runner, 1, 1))
        assert (await runner.status()).progress == (await runner.status()).progress
        second.cancel()
        await eventually(lambda: _counts(runner, 1, 0))
        first.cancel()
        await asyncio.wait([first, second])
        await eventually(lambda: _counts(runner, 0, 0))


async def test_a_failure_before_the_first_event_is_a_status_and_after_it_an_event(runner: RunnerProcess) -> None:
    with pytest.raises(Unsupported, match="told to fail"):
        await runner.ask("fake:fault=error:unsupported a b")
    events = await runner.ask("fake:fault=error:out_of_memory@1 a b")
    assert [event.type for event in events] == ["prefill", "text", "error"]
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "out_of_memory"


async def test_a_bug_in_the_engine_ends_its_request_and_not_the_runner(runner: RunnerProcess) -> None:
    events = await runner.ask("fake:fault=bug:oops@1 a b")
    assert events[-1] == Failed(kind="internal", message="the engine failed: RuntimeError: oops")
    assert "RuntimeError: oops" in runner.error_text
    assert (await runner.ask("again"))[-1].type == "done"


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("POST", "/v1/generate", b"{", "invalid", 400),
        ("POST", "/v1/generate", b'{"prompt": "a", "colour": 1}', "invalid", 400),
        ("POST", "/v1/generate", b'{"prompt": "a", "messages": [{"role": "user"}]}', "invalid", 400),
        ("POST", "/v1/generate", b"[" * 100_000, "invalid", 400),
        ("POST", "/v1/generate", b'{"prompt": "\xff"}', "invalid", 400),
        ("POST", "/v1/generate", b'{"prompt": "a", "options": {"temperature": NaN}}', "invalid", 400),
        ("GET", "/v1/generate", b"", "invalid", 400),
        ("GET", "/v2/status", b"", "not_found", 404),
        ("POST", "/v1/detokenize", b'{"tokens": ["x"]}', "invalid", 400),
    ],
)
async def test_a_bad_request_is_a_problem(
    runner: RunnerProcess, method: str, path: str, body: bytes, kind: str, status: int
) -> None:
    async with runner.http.request(method, path, data=body) as answer:
        problem = Problem.model_validate_json(await answer.read())
        assert (answer.status, problem.kind) == (status, kind), problem
    assert "Traceback" not in runner.error_text


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer \udcff", "Basic x"])
async def test_nothing_is_answered_without_the_token(runner: RunnerProcess, header: str) -> None:
    async with aiohttp.ClientSession(
        "http://runner", connector=aiohttp.UnixConnector(path=str(runner.socket_path))
    ) as session:
        async with session.get("/v1/status", headers={"Authorization": header}) as answer:
            problem = Problem.model_validate_json(await answer.read())
        assert (answer.status, problem.kind) == (401, "unauthorized")


@pytest.mark.fault(45)
async def test_lines_of_the_log_carry_the_request_id_and_no_prompt(runner: RunnerProcess) -> None:
    headers = {"X-Request-ID": "req-7", "traceparent": TRACE}
    async with runner.stream(GenerateRequest(prompt="my secret"), **headers) as answer:
        await answer.read()
    await runner.generate(GenerateRequest(prompt="my secret fake:fault=bug@1", request_id="req-8"))
    assert "[req-7] ollmlx.runner: generate" in runner.error_text
    assert f"[req-7] ollmlx.runner: generate: begun, trace {TRACE}" in runner.error_text
    assert "ERROR [req-8]" in runner.error_text
    assert "secret" not in runner.error_text


async def test_prompts_and_answers_are_logged_when_the_settings_say_so() -> None:
    async with fake_runner(config={"debug_prompts": True}, say="yours") as runner:
        await runner.ready()
        await runner.ask("my secret")
        await runner.post("/v1/embed", EmbedRequest(inputs=("my text",)))
        assert "my secret" in runner.error_text
        assert "my text" in runner.error_text
        assert '"text":"yours"' in runner.error_text


@pytest.mark.fault(45)
async def test_a_request_cannot_forge_a_line_of_the_log(runner: RunnerProcess) -> None:
    with pytest.raises(InvalidRequest):
        await runner.ask("fake:say=x fake:fault=no%0aERROR%20[-]%20forged a")
    assert "\nERROR [-] forged" not in runner.error_text


async def test_the_tokens_of_a_conversation_are_those_of_its_template(runner: RunnerProcess) -> None:
    chat = TokenizeRequest(messages=(Message(role="user", content="naïve 12345  🙂\n漢字"),))
    tokens = Tokens.model_validate_json(await runner.post("/v1/tokenize", chat))
    text = Detokenized.model_validate_json(await runner.post("/v1/detokenize", tokens)).text
    assert "user: naïve 12345  🙂\n漢字" in text


async def test_a_connection_waits_in_the_backlog_until_the_runner_listens() -> None:
    async with fake_runner() as runner:
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(runner.socket_path))
            early.sendall(
                f"GET /v1/status HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {runner.token}\r\n\r\n".encode()
            )
            early.settimeout(HANG_GUARD)
            assert (await asyncio.to_thread(early.recv, 15)) == b"HTTP/1.1 200 OK"
