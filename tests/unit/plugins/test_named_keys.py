"""Named keys in every dialect: models, limits and priority, in the words of each."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.settings import Settings
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, Prefill, Text
from ollmlx.web import state_of
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai
from ollmlx_ops.routes import blueprint as ops

USER = [{"role": "user", "content": "x"}]
GENERATIONS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "x"},
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": USER, "max_tokens": 9},
}
OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/embed", {"model": "secret", "input": "x"}),
    ("POST", "/api/embeddings", {"model": "secret", "prompt": "x"}),
    ("POST", "/v1/embeddings", {"model": "secret", "input": "x"}),
    ("POST", "/v1/rerank", {"model": "secret", "query": "x", "documents": ["y"]}),
    ("POST", "/api/rerank", {"model": "secret", "query": "x", "documents": ["y"]}),
    ("POST", "/v1/messages/count_tokens", {"model": "secret", "messages": USER}),
    ("POST", "/api/show", {"model": "secret"}),
    ("POST", "/api/generate", {"model": "secret", "keep_alive": 0}),
    ("GET", "/v1/models/secret", {}),
    ("POST", "/api/pull", {"model": "secret"}),
    ("DELETE", "/api/delete", {"model": "secret"}),
    ("POST", "/api/copy", {"source": "secret", "destination": "tiny"}),
    ("POST", "/api/copy", {"source": "tiny", "destination": "secret"}),
    ("POST", "/api/create", {"model": "tiny", "from": "secret"}),
    ("POST", "/api/create", {"model": "secret", "from": "tiny"}),
]
ERRORS: dict[int, dict[str, Any]] = {
    403: {"openai": ("permission_error", None), "anthropic": "permission_error"},
    429: {"openai": ("rate_limit_error", "rate_limit_exceeded"), "anthropic": "rate_limit_error"},
}


def served(**limits: Any) -> tuple[FakeService, Any]:
    keys = {"anna": {"key": "of-anna", **limits}, "ben": {"key": "of-ben"}}
    settings = Settings.model_validate({"security": {"api_keys": ["old"], "keys": keys}})
    service = FakeService(settings=settings, models=[installed("tiny"), installed("secret")])
    service.say("hello")
    return service, web_app(service, ollama, openai, anthropic, ops)


def as_(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def check_words(path: str, status: int, body: Any) -> None:
    """Compare an error with the words of the dialect of its path."""
    if path.startswith("/v1/messages"):
        assert body["error"]["type"] == ERRORS[status]["anthropic"]
        assert "anna" in body["error"]["message"]
    elif path.startswith("/v1/"):
        assert (body["error"]["type"], body["error"]["code"]) == ERRORS[status]["openai"]
        assert "anna" in body["error"]["message"]
    else:
        assert "anna" in body["error"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", GENERATIONS)
async def test_a_limit_is_a_429_in_the_words_of_the_dialect(path: str, stream: bool) -> None:
    _, app = served(requests_per_day=1)
    client, body = app.test_client(), {"model": "tiny", "stream": stream, **GENERATIONS[path]}
    assert (await client.post(path, json=body, headers=as_("of-anna"))).status_code == 200
    refused = await client.post(path, json=body, headers=as_("of-anna"))
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    check_words(path, 429, await refused.get_json())
    for other in ("of-ben", "old"):
        assert (await client.post(path, json=body, headers=as_(other))).status_code == 200


@pytest.mark.parametrize("path", GENERATIONS)
async def test_a_model_that_a_key_may_not_use_is_refused_in_the_words_of_the_dialect(path: str) -> None:
    service, app = served(models=["tiny"])
    body = {"model": "secret", **GENERATIONS[path]}
    refused = await app.test_client().post(path, json=body, headers=as_("of-anna"))
    assert refused.status_code == 403
    check_words(path, 403, await refused.get_json())
    assert service.calls == []
    assert (await app.test_client().post(path, json=body, headers=as_("of-ben"))).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), OTHERS)
async def test_no_other_route_uses_tells_or_changes_such_a_model(method: str, path: str, body: dict[str, Any]) -> None:
    service, app = served(models=["tiny"])
    options = {"json": body} if body else {}
    refused = await app.test_client().open(path, method=method, headers=as_("of-anna"), **options)
    assert refused.status_code == 403
    check_words(path, 403, await refused.get_json())
    assert service.calls == []


async def test_lists_have_only_the_models_of_the_key() -> None:
    _, app = served(models=["ti*"])
    for path, field, name in (("/api/tags", "models", "name"), ("/v1/models", "data", "id")):
        found = {}
        for key in ("of-anna", "of-ben"):
            answer = await app.test_client().get(path, headers=as_(key))
            found[key] = [one[name] for one in (await answer.get_json())[field]]
        assert (len(found["of-anna"]), len(found["of-ben"])) == (1, 2)


@pytest.mark.parametrize(
    ("key", "asked", "given"), [("of-anna", "high", "low"), ("of-ben", "high", "normal"), ("old", "high", "normal")]
)
async def test_a_request_has_at_most_the_priority_of_its_key(key: str, asked: str, given: str) -> None:
    service, app = served(priority="low")
    body = {"model": "tiny", **GENERATIONS["/api/chat"], "stream": False}
    await app.test_client().post("/api/chat", json=body, headers=as_(key) | {"X-Priority": asked})
    assert [one.priority for one in service.callers] == [given]


async def test_tokens_are_counted_also_when_the_client_leaves() -> None:
    service, app = served()
    client, body = app.test_client(), {"model": "tiny", **GENERATIONS["/api/chat"]}
    usage = state_of(app).app.quotas.usage
    service.outcomes = [Prefill(done=7, total=7, cached=0), Text(text="a"), Done(prompt_tokens=7, generated_tokens=3)]
    await (await client.post("/api/chat", json=body, headers=as_("of-anna"))).get_data()
    assert usage.today("anna") == (1, 10)
    service.outcomes = [Prefill(done=7, total=7, cached=0), Text(text="a"), RuntimeError("broken off")]
    await (await client.post("/api/chat", json=body, headers=as_("of-anna"))).get_data()
    assert usage.today("anna") == (2, 18)


async def test_logs_and_metrics_have_the_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    _, app = served(requests_per_day=1)
    client, body = app.test_client(), {"model": "tiny", **GENERATIONS["/api/chat"], "stream": False}
    for _ in range(2):
        await client.post("/api/chat", json=body, headers=as_("of-anna"))
    figures = await (await client.get("/metrics", headers=as_("of-ben"))).get_data(as_text=True)
    assert 'ollmlx_key_requests_total{key="anna",outcome="served"} 1.0' in figures
    assert 'ollmlx_key_requests_total{key="anna",outcome="refused"} 1.0' in figures
    assert 'ollmlx_key_tokens_total{key="anna"}' in figures
    assert "client=anna" in caplog.text
    assert "of-anna" not in caplog.text + figures


@pytest.mark.parametrize(
    ("method", "path", "body", "line"),
    [
        ("POST", "/api/pull", {"model": "tiny"}, "act=pull model=tiny client=anna status=200"),
        ("POST", "/api/push", {"model": "tiny"}, "act=push model=tiny client=anna status=403"),
        ("DELETE", "/api/delete", {"model": "tiny"}, "act=delete model=tiny client=anna status=200"),
        ("DELETE", "/api/delete", {"model": "absent"}, "act=delete model=absent client=anna status=404"),
        ("POST", "/api/copy", {"source": "tiny", "destination": "b"}, "act=copy model=b:latest client=anna status=200"),
        ("POST", "/api/create", {"model": "b", "from": "tiny"}, "act=create model=b:latest client=anna status=200"),
        ("POST", "/api/generate", {"model": "tiny", "keep_alive": 0}, "act=stop model=tiny client=anna status=200"),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "x"}, "act=first use of a key client=anna"),
        ("GET", "/api/tags", None, "act=first use of a key client=anna"),
    ],
)
async def test_what_changes_the_daemon_has_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture, method: str, path: str, body: dict[str, Any] | None, line: str
) -> None:
    caplog.set_level("INFO")
    _, app = served()
    answer = await app.test_client().open(path, method=method, json=body, headers=as_("of-anna"))
    await answer.get_data()
    lines = [record.getMessage() for record in caplog.records if record.name == "ollmlx.audit"]
    assert f"audit: {line}" in lines
    assert len(lines) == (1 if "first use" in line else 2)


async def test_a_refused_key_has_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    _, app = served()
    assert (await app.test_client().get("/api/tags", headers=as_("guess"))).status_code == 401
    assert "audit: act=refused key client=local status=401" in caplog.text
    assert "guess" not in caplog.text
