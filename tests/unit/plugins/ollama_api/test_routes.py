"""The native routes: statuses, sentences, fields."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ollmlx.errors import Busy, RunnerFailed, UpstreamError
from ollmlx.settings.model import SecuritySettings, Settings
from ollmlx.storekit.blobs import Blobs
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import (
    Message,
    ModelDefaults,
    ModelDetails,
    Options,
    PullProgress,
    RunnerInfo,
    RunnerState,
    Text,
)
from ollmlx_ollama_api.routes import blueprint


@pytest.fixture
def service(tmp_path: Path) -> FakeService:
    service = FakeService(blobs=Blobs(tmp_path / "blobs"))
    service.say("Hello", " world")
    return service


@pytest.fixture
def client(service: FakeService) -> Any:
    return web_app(service, blueprint).test_client()


async def told(answer: Any) -> Any:
    return json.loads(await answer.get_data())


async def test_the_greeting_and_the_version_are_what_clients_look_for(client: Any) -> None:
    root = await client.get("/")
    assert (root.status_code, await root.get_data()) == (200, b"Ollama is running")
    assert (await client.head("/")).status_code == 200
    version = (await told(await client.get("/api/version")))["version"]
    assert [int(part) for part in version.split(".")] >= [0, 9, 0]
    assert (await client.head("/api/version")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/api/chat", None, 400, "missing request body"),
        ("POST", "/api/generate", {}, 404, "model '' not found"),
        ("POST", "/api/chat", {}, 400, "model is required"),
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/push", {}, 400, "model is required"),
        ("POST", "/api/embeddings", {}, 400, "model is required"),
        ("POST", "/api/embed", {}, 404, "model '' not found"),
        ("POST", "/api/generate", {"model": "none", "prompt": "x"}, 404, "model 'none' not found"),
        ("POST", "/api/chat", {"model": "none", "messages": []}, 404, "model 'none' not found"),
        ("POST", "/api/show", {"name": "none"}, 404, "model 'none' not found"),
        ("POST", "/api/embed", {"model": "none", "input": "x"}, 404, 'model "none" not found, try pulling it first'),
        (
            "POST",
            "/api/embeddings",
            {"model": "none", "prompt": "x"},
            404,
            'model "none" not found, try pulling it first',
        ),
        ("DELETE", "/api/delete", {"model": "none"}, 404, "model 'none' not found"),
        ("DELETE", "/api/delete", {"model": "../x"}, 400, 'name "../x" is invalid'),
        ("POST", "/api/copy", {"source": "none", "destination": "x"}, 404, "model 'none' not found"),
        ("POST", "/api/create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "x", "format": "yaml"}, 400, None),
        ("HEAD", "/api/blobs/nonsense", None, 400, None),
        ("HEAD", "/api/blobs/sha256:" + "0" * 64, None, 404, None),
        ("POST", "/api/blobs/sha256:" + "0" * 64, b"x", 400, None),
        ("POST", "/api/blobs/sha256:" + "..%2f" * 12, b"x", 404, None),
    ],
)
async def test_refusals_have_ollamas_status_and_sentence(
    client: Any, method: str, path: str, body: Any, status: int, sentence: str | None
) -> None:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body)
    answer = await client.open(path, method=method, data=data)
    assert answer.status_code == status
    if sentence is not None:
        assert (await told(answer))["error"] == sentence


async def test_tags_list_every_model_with_the_fields_clients_read(client: Any, service: FakeService) -> None:
    assert (await told(await client.get("/api/tags")))["models"][0] == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "modified_at": "2026-01-02T03:04:05Z",
        "size": 1000,
        "digest": "0" * 64,
        "details": {
            "parent_model": "",
            "format": "fake",
            "family": "fake",
            "families": ["fake"],
            "parameter_size": "",
            "quantization_level": "",
            "context_length": 4096,
        },
        "capabilities": ["completion"],
    }
    service.models = []
    assert await told(await client.get("/api/tags")) == {"models": []}


async def test_show_tells_what_clients_need_and_leaves_out_what_is_not_there(client: Any, service: FakeService) -> None:
    service.models = [
        installed(
            "org/name",
            details=ModelDetails(format="mlx", family="llama", context_length=8192, embedding_length=64),
            chat_template="{{ messages }}",
            defaults=ModelDefaults(
                system='say "hi"',
                options=Options(temperature=0.5, num_ctx=4096, stop=("<|end|>", "x")),
                license=("MIT", "more"),
                messages=(Message(role="user", content="hi"),),
            ),
        )
    ]
    shown = await told(await client.post("/api/show", json={"model": "org/name", "verbose": True}))
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.basename": "name",
        "llama.context_length": 8192,
        "llama.embedding_length": 64,
    }
    assert shown["parameters"].splitlines() == [
        f"{'temperature':<30} 0.5",
        f'{"stop":<30} "<|end|>"',
        f'{"stop":<30} "x"',
        f"{'num_ctx':<30} 4096",
    ]
    assert shown["license"] == "MIT\nmore"
    assert shown["template"] == "{{ messages }}"
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert 'SYSTEM say "hi"\n' in shown["modelfile"]
    assert "PARAMETER temperature 0.5" in shown["modelfile"]
    assert shown["tensors"] == [{"name": "w", "type": "F32", "shape": [2, 2]}]
    service.models = [installed("plain")]
    assert {"license", "parameters", "system", "messages", "tensors"}.isdisjoint(
        await told(await client.post("/api/show", json={"model": "plain"}))
    )


async def test_show_tells_which_store_a_model_is_in_and_what_runs_it(client: Any, service: FakeService) -> None:
    service.models = [
        installed("a", store="mlx", source="hub:org/a@main"),
        installed("b", store="ollama", format="gguf", projector_info={"clip.has_vision_encoder": True}),
    ]
    shown = await told(await client.post("/api/show", json={"model": "a"}))
    assert (shown["store"], shown["source"]) == ("mlx", "hub:org/a@main")
    assert (shown["backend"], shown["why"]) == ("fake", "there is no other")
    assert "projector_info" not in shown
    shown = await told(await client.post("/api/show", json={"model": "b"}))
    assert (shown["store"], shown["backend"]) == ("ollama", "")
    assert (shown["problem"], shown["hint"]) == ("no backend can run it", "install one")
    assert shown["projector_info"] == {"clip.has_vision_encoder": True}


async def test_ps_puts_the_one_that_stays_longest_first(client: Any, service: FakeService) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    service.runners = [
        RunnerInfo(id="a#1", model=installed("a"), backend="mlx", state=RunnerState.READY, expires_at=soon, memory=10),
        RunnerInfo(id="b#1", model=installed("b"), backend="mlx", state=RunnerState.BUSY, memory=20, memory_gpu=5),
        RunnerInfo(id="c#1", model=installed("c"), backend="mlx", state=RunnerState.FAILED),
    ]
    models = (await told(await client.get("/api/ps")))["models"]
    assert [model["name"] for model in models] == ["b:latest", "a:latest"]
    assert (models[0]["size"], models[0]["size_vram"]) == (20, 5)
    never = datetime.fromisoformat(models[0]["expires_at"])
    assert never.tzinfo is not None
    assert 2200 < never.year <= 9999
    assert datetime.fromisoformat(models[1]["expires_at"]) == soon


async def test_a_failure_keeps_its_status_before_the_first_token_and_is_a_line_after_it(
    client: Any, service: FakeService
) -> None:
    service.outcomes = [Busy("server busy, please try again.  maximum pending requests exceeded", retry_after=3)]
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    busy = await client.post("/api/chat", json=ask)
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "3")
    assert await told(busy) == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    service.outcomes = [Text(text="a"), RunnerFailed("it exited", code="RUN002")]
    broken = await client.post("/api/chat", json=ask)
    lines = (await broken.get_data()).splitlines()
    assert broken.status_code == 200
    assert json.loads(lines[-1]) == {"error": "it exited", "code": "RUN002"}
    whole = await client.post("/api/chat", json={**ask, "stream": False})
    assert (whole.status_code, (await told(whole))["error"]) == (500, "it exited")
    assert service.open_streams == 0


async def test_a_dry_run_tells_the_candidates_and_pulls_nothing(client: Any, service: FakeService) -> None:
    answer = await told(await client.post("/api/pull", json={"model": "x", "dry_run": True}))
    assert answer["candidates"][0]["origin"] == "fake:x"
    assert service.calls == []


async def test_pull_tells_each_step_or_the_last_one(client: Any, service: FakeService) -> None:
    service.progress = [
        PullProgress(status="pulling manifest"),
        PullProgress(status="pulling 0123", digest="sha256:0123", total=10, completed=5),
        PullProgress(status="success"),
    ]
    answer = await client.post("/api/pull", json={"name": "x", "insecure": True})
    assert [json.loads(line) for line in (await answer.get_data()).splitlines()] == [
        {"status": "pulling manifest"},
        {"status": "pulling 0123", "digest": "sha256:0123", "total": 10, "completed": 5},
        {"status": "success"},
    ]
    assert service.calls == [("pull", "x:latest", True)]
    assert await told(await client.post("/api/pull", json={"model": "x", "stream": False})) == {"status": "success"}
    service.progress = [PullProgress(status="pulling manifest"), UpstreamError("the hub is down")]
    lines = (await (await client.post("/api/pull", json={"model": "x"})).get_data()).splitlines()
    assert json.loads(lines[-1]) == {"error": "the hub is down"}
    whole = await client.post("/api/pull", json={"model": "x", "stream": False})
    assert (whole.status_code, await told(whole)) == (500, {"error": "the hub is down"})


async def test_an_adapters_files_have_their_names_while_the_model_is_made(client: Any, service: FakeService) -> None:
    seen: list[list[str]] = []

    def create(name: Any, *, base: Any, files: Any, defaults: ModelDefaults, quantize: Any, convert: Any) -> Any:
        assert defaults.adapter is not None
        seen.append(sorted(path.name for path in defaults.adapter.iterdir()))
        return service._steps()

    service.create = create  # type: ignore[method-assign,assignment]
    digests = {}
    for name, data in (("adapters.safetensors", b"a"), ("adapter_config.json", b"{}")):
        digests[name] = f"sha256:{hashlib.sha256(data).hexdigest()}"
        await client.post(f"/api/blobs/{digests[name]}", data=data)
    answer = await client.post(
        "/api/create", json={"model": "new", "from": "tiny", "adapters": digests, "stream": False}
    )
    assert answer.status_code == 200
    assert seen == [["adapter_config.json", "adapters.safetensors"]]


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a/../../x", "a\\b", ""])
async def test_file_names_that_lead_elsewhere_are_refused(client: Any, name: str) -> None:
    answer = await client.post("/api/create", json={"model": "new", "files": {name: "sha256:" + "0" * 64}})
    assert answer.status_code == 400


async def test_uploads_can_be_switched_off(service: FakeService) -> None:
    service.settings = Settings(security=SecuritySettings(blobs=False))
    client = web_app(service, blueprint).test_client()
    assert (await client.post(f"/api/blobs/sha256:{'0' * 64}", data=b"x")).status_code == 403
    refused = await client.post("/api/create", json={"model": "new", "files": {"x": "sha256:" + "0" * 64}})
    assert refused.status_code == 403


async def test_without_a_text_there_is_no_vector_and_only_the_newer_route_normalises(
    client: Any, service: FakeService
) -> None:
    for path, key in (("/api/embed", "embeddings"), ("/api/embeddings", "embedding")):
        assert (await told(await client.post(path, json={"model": "tiny"})))[key] == []
        await client.post(path, json={"model": "tiny", "input": "a", "prompt": "a"})
    assert [call[2].normalize for call in service.calls if call[0] == "embed"] == [True, False]
