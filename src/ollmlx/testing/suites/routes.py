"""The suite of route families: no request of a client may be the server's fault."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ollmlx.storekit.blobs import Blobs
from ollmlx.testing.suites import Suite

if TYPE_CHECKING:
    from quart import Blueprint, Quart

    from ollmlx import Service
    from ollmlx.testing.routes import FakeService

MALFORMED: dict[str, bytes] = {
    "half an object": b'{"model": ',
    "not an object": b'["model"]',
    "a string": b'"model"',
    "nothing": b"",
    "nested beyond reason": b"[" * 100_000,
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "no number": b'{"model": "tiny", "prompt": "x", "options": {"temperature": NaN}}',
    "a NUL": b'{"model": "a\\u0000b"}',
    "a path": b'{"model": "../../etc/passwd"}',
    "wrong types": b'{"model": 5, "messages": "x", "prompt": {}, "input": 1, "options": [], "stream": "no"}',
}

PLAUSIBLE: dict[str, Any] = {
    "model": "tiny",
    "prompt": "x",
    "messages": [{"role": "user", "content": "x"}],
    "input": "x",
    "max_tokens": 5,
}


class RoutesSuite(Suite):
    """Tests a route family. Subclass it and return the function that `register_routes` registers.

    class TestMyRoutes(RoutesSuite):
        def make_routes(self):
            return my_blueprint        # called with the service, returns a Blueprint
    """

    body: ClassVar[dict[str, Any]] = {}
    """Fields that the family's requests need besides those of PLAUSIBLE."""

    def make_routes(self) -> Callable[[Service], Blueprint]:
        """Return the function that makes the family's Blueprint over a service."""
        raise NotImplementedError

    @pytest.fixture
    def service(self, tmp_path: Path) -> FakeService:
        from ollmlx.testing.routes import FakeService

        service = FakeService(blobs=Blobs(tmp_path / "blobs"))
        service.say("Hello", " world")
        return service

    @pytest.fixture
    def web(self, service: FakeService) -> Quart:
        from ollmlx.testing.routes import web_app

        return web_app(service, self.make_routes())

    async def test_it_has_routes(self, web: Quart) -> None:
        assert _requests(web)

    async def test_what_a_client_sends_is_never_the_servers_fault(self, web: Quart) -> None:
        for name, data in MALFORMED.items():
            async for request, answer in _answers(web, data=data, headers={"Content-Type": "application/json"}):
                text = await answer.get_data()
                assert answer.status_code < 500, f"{request} with {name}: {text!r}"
                assert b"Traceback" not in text

    async def test_any_content_type_is_read_as_the_same(self, web: Quart) -> None:
        data = json.dumps({**PLAUSIBLE, **self.body})
        statuses = defaultdict(set)
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            async for request, answer in _answers(web, data=data, headers={"Content-Type": kind}):
                if request.startswith("POST"):
                    statuses[request].add(answer.status_code)
        assert all(len(each) == 1 for each in statuses.values()), dict(statuses)

    async def test_a_model_that_is_not_there_is_told(self, web: Quart) -> None:
        async for request, answer in _answers(web, json={**PLAUSIBLE, **self.body, "model": "no/such"}):
            assert answer.status_code < 500, request

    async def test_a_bug_shows_no_insides_and_leaves_no_stream_open(self, web: Quart, service: FakeService) -> None:
        service.outcomes = [RuntimeError("/home/user/secret.py broke")]
        async for request, answer in _answers(web, json={**PLAUSIBLE, **self.body}):
            text = await answer.get_data()
            assert b"Traceback" not in text
            assert b"secret.py" not in text, f"{request}: {text!r}"
            assert service.open_streams == 0

    async def test_a_host_that_is_not_ours_is_refused(self, web: Quart) -> None:
        async for request, answer in _answers(web, headers={"Host": "evil.example"}):
            assert answer.status_code == 403, request

    async def test_a_page_of_another_origin_is_refused(self, web: Quart) -> None:
        async for request, answer in _answers(web, headers={"Origin": "https://evil.example"}):
            assert answer.status_code == 403, request
            assert "Access-Control-Allow-Origin" not in answer.headers

    async def test_a_method_that_is_not_meant_is_refused(self, web: Quart) -> None:
        for _, path in _requests(web):
            assert (await web.test_client().patch(path)).status_code == 405


async def _answers(web: Quart, **content: Any) -> AsyncIterator[tuple[str, Any]]:
    """Send the content to every route, and yield each method with its path, and the answer."""
    client: Any = web.test_client()
    for method, path in _requests(web):
        yield f"{method} {path}", await client.open(path, method=method, **content)


def _requests(web: Quart) -> list[tuple[str, str]]:
    """Return every method and path of the application; parameters in a path become `x`."""
    return sorted(
        (method, re.sub(r"<[^>]*>", "x", rule.rule))
        for rule in web.url_map.iter_rules()
        for method in (rule.methods or ())
        if method not in ("HEAD", "OPTIONS")
    )
