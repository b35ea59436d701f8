"""The fault matrix, parts C and D: damaged and hostile models, names, options. One daemon, and no runner may start."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.e2e.helpers import user
from tests.servers.tiny import tiny_files, write_model

from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e
CONFIG = json.loads(tiny_files()["config.json"])
WEIGHTS = tiny_files()["model.safetensors"]
CODE = b"open('ran', 'w')"


def config(**more: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps({**CONFIG, **more}).encode(), "own.py": CODE}


FOLDERS: dict[str, dict[str, bytes]] = {
    "bad_cut": {"model.safetensors": WEIGHTS[:-5]},
    "bad_page": {"model.safetensors": b"<html>" * 100},
    "bad_empty": {"model.safetensors": b""},
    "code_file": config(model_file="own.py"),
    "code_map": config(auto_map={"AutoModel": "own.Model"}),
    "code_tokens": {"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["own.T", null]}}', "own.py": CODE},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the real store and the MLX backend, beside the fake model `parrot`."""
    plugins = {"plugins": {"disabled": ["pypi", "ollama_store"]}}
    started = Daemon(tmp_path_factory.mktemp("daemon"), fakes={"parrot": {}}, settings=plugins)
    for folder, files in FOLDERS.items():
        write_model(started.models / "mlx" / folder, files)
    try:
        yield started.start()
    finally:
        code = started.stop()
    assert code == 0
    assert "Traceback" not in started.log_text
    assert "#1 started" not in started.log_text.replace("parrot#1", "")


@pytest.fixture(autouse=True)
def unharmed(server: Daemon) -> Iterator[None]:
    """After each fault the daemon answers, holds no memory and has let nothing into its folders."""
    before = sorted(server.folder.rglob("*"))
    yield
    assert server.get("/livez").status_code == 200
    assert [model["name"] for model in server.loaded()] in ([], ["parrot:latest"])
    assert [path for path in sorted(server.folder.rglob("*")) if path not in before and "state" not in path.parts] == []


def told(answer: httpx2.Response) -> tuple[int, str, str]:
    """Return status, sentence and code. The answer may not hold the path of the models."""
    body = answer.json()
    error = body["error"]
    sentence, code = (error["message"], error["code"]) if isinstance(error, dict) else (error, body.get("code", ""))
    assert "daemon0" not in answer.text
    return answer.status_code, sentence, code


def generate(server: Daemon, model: str, **more: Any) -> httpx2.Response:
    return server.post("/api/generate", {"model": model, "prompt": "one two three", "stream": False, **more})


@pytest.mark.fault(30)
@pytest.mark.parametrize("model", ["bad/cut", "bad/page", "bad/empty"])
def test_damaged_weights_are_named_before_anything_is_started(server: Daemon, model: str) -> None:
    status, sentence, code = told(generate(server, model))
    assert (status, code) == (500, "MDL003")
    assert sentence.startswith(f"{model.replace('/', '_')}/model.safetensors is damaged")


@pytest.mark.fault(31)
@pytest.mark.parametrize("model", ["code/file", "code/map", "code/tokens"])
def test_a_model_with_code_of_its_own_is_refused_and_the_code_never_runs(server: Daemon, model: str) -> None:
    status, sentence, code = told(generate(server, model))
    assert (status, code) == (400, "SEC005")
    assert "asks for its own Python code to be run" in sentence
    assert not list(server.folder.rglob("ran"))


PATHS = ["../x", "%2e%2e/x", "a/../../b", "C:\\x", "/etc/passwd", "-x", ".x", "~/x"]
OTHERS = ["n\0ul", "\u202ertl", "caf\u00e9", "e\u0301", "x" * 10_240, "line\r\nbreak", "\x1b[31m"]
WHERE: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/api/generate", {}, "model"),
    ("POST", "/api/chat", {"messages": []}, "model"),
    ("POST", "/api/embed", {"input": "x"}, "model"),
    ("POST", "/api/show", {}, "model"),
    ("POST", "/api/pull", {"stream": False}, "model"),
    ("POST", "/api/create", {"from": "parrot", "stream": False}, "model"),
    ("POST", "/api/copy", {"source": "parrot"}, "destination"),
    ("DELETE", "/api/delete", {}, "model"),
    ("POST", "/v1/chat/completions", {"messages": user("x")}, "model"),
]


@pytest.mark.fault(33)
@pytest.mark.fault(44)
@pytest.mark.parametrize("name", [*PATHS, *OTHERS], ids=lambda name: repr(name[:12]))
def test_a_text_that_is_no_name_is_refused_by_every_route(server: Daemon, name: str) -> None:
    with httpx2.Client(base_url=server.url, timeout=120) as client:
        for method, path, body, key in WHERE:
            answer = client.request(method, path, json={**body, key: name})
            status, sentence, code = told(answer)
            assert (status, code) == (400, "MDL001"), (path, sentence)
            assert "\x1b" not in sentence


@pytest.mark.fault(33)
@pytest.mark.parametrize("digest", ["sha256:../../x", "sha256:%2e%2e%2fx", "sha256-..", "..%2f..%2fx"])
def test_a_digest_that_is_a_path_stores_nothing(server: Daemon, digest: str) -> None:
    answer = httpx2.post(f"{server.url}/api/blobs/{digest}", content=b"x", timeout=120)
    assert answer.status_code in (400, 404)


@pytest.mark.fault(36)
def test_a_models_folder_that_vanishes_is_missed_and_found_again(server: Daemon) -> None:
    aside = server.models.rename(server.models.with_name("elsewhere"))
    try:
        assert told(generate(server, "bad/cut"))[::2] == (404, "MDL002")
        assert [model["name"] for model in server.get("/api/tags").json()["models"]] == ["parrot:latest"]
        assert server.get("/readyz").status_code == 200
        assert generate(server, "parrot").json()["response"] == "one two three"
    finally:
        shutil.rmtree(server.models, ignore_errors=True)
        aside.rename(server.models)
    assert told(generate(server, "bad/cut"))[::2] == (500, "MDL003")


OPTIONS: list[tuple[dict[str, Any], int, str]] = [
    ({"num_predict": 10**30, "num_ctx": 0, "temperature": 1e308, "made_up": True}, 200, "one two three"),
    ({"num_predict": 1.5}, 200, "one"),
    ({"temperature": "nan"}, 400, 'option "temperature" must be of type float32'),
]
"""Some of those of tests/unit/plugins/ollama_api/test_options.py."""


@pytest.mark.fault(42)
@pytest.mark.parametrize(("options", "status", "words"), OPTIONS, ids=str)
def test_every_option_is_taken_bounded_or_refused(
    server: Daemon, options: dict[str, Any], status: int, words: str
) -> None:
    answer = generate(server, "parrot", options=options)
    assert answer.status_code == status
    assert answer.json()["response" if status == 200 else "error"] == words


@pytest.mark.fault(43)
def test_a_prompt_beyond_the_context_is_cut_or_refused_before_it_is_computed(server: Daemon) -> None:
    long = {"prompt": "w " * 9000, "options": {"num_predict": 1}}
    assert generate(server, "parrot", **long).json()["prompt_eval_count"] <= 4096
    refused = generate(server, "parrot", **long, truncate=False)
    assert told(refused)[:2] == (
        400,
        "the prompt is longer than the context length: 9003 tokens, and 4096 are available",
    )


AGENTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "w " * 9000}]},
    "/v1/responses": {"input": "w " * 9000},
    "/v1/messages": {"messages": [{"role": "user", "content": "w " * 9000}], "max_tokens": 9},
}


@pytest.mark.fault(43)
@pytest.mark.parametrize("path", AGENTS)
@pytest.mark.parametrize("stream", [True, False])
def test_an_agents_prompt_beyond_the_context_is_refused_with_both_lengths(
    server: Daemon, path: str, stream: bool
) -> None:
    answer = server.post(path, {"model": "parrot", "stream": stream, **AGENTS[path]})
    assert answer.status_code == 400
    most, length = sorted(map(int, re.findall(r"\d+(?= tokens| maximum)", answer.json()["error"]["message"])))
    assert most == 4096
    assert length > 9000
