"""Pictures through the daemon: every dialect, both engines, the command line, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.pictures import base64_of, drawn
from tests.servers.llava_gguf import write_llava
from tests.vision_models import seeing_model

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.slow]
RED, BLUE = (base64_of(drawn(color)) for color in ("red", "blue"))
OPTIONS = {"temperature": 0, "num_predict": 8}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    pytest.importorskip("mlx_vlm", reason="pip install 'ollmlx[vision]'")
    with Daemon(tmp_path_factory.mktemp("pictures"), env={"HOME": str(Path.home())}) as one:
        seeing_model(one.folder / "eyes", "smolvlm")
        (one.folder / "Modelfile").write_text("FROM ./eyes\n")
        made = one.cli("create", "eyes", "-f", "Modelfile")
        assert made.returncode == 0, made.stderr
        yield one


@pytest.fixture(scope="module", params=["eyes", "llava"])
def model(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    """The name of a model on each engine."""
    if request.param == "llava":
        pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
        weights, projector = write_llava(daemon.folder)
        both = f"FROM {weights}\nFROM {projector}\n"
        files = {"llava": both, "go": both + "TEMPLATE {{ .Prompt }}\n", "blind": f"FROM {weights}\n"}
        for made_name, text in files.items():
            (daemon.folder / made_name).write_text(text)
            made = daemon.cli("create", made_name, "-f", str(daemon.folder / made_name), "--backend", "llamacpp")
            assert made.returncode == 0, made.stderr
    name: str = request.param
    return name


def chat(daemon: Daemon, *images: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "what is it?", "images": list(images)}
    body = {"model": "eyes", "messages": [message], "options": OPTIONS, "stream": False, **fields}
    answer = daemon.post("/api/chat", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def openai(daemon: Daemon, model: str, image: str, path: str = "/v1/chat/completions") -> dict[str, Any]:
    url = f"data:image/png;base64,{image}"
    if path == "/v1/responses":
        content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "what is it?"}]
        body: dict[str, Any] = {"input": [{"role": "user", "content": content}], "max_output_tokens": 8}
    else:
        shown: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
        content = [shown, {"type": "text", "text": "what is it?"}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    answer = daemon.post(path, {"model": model, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def anthropic(daemon: Daemon, model: str, image: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": image}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    body = {"model": model, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    answer = daemon.post("/v1/messages", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_what_sees_says_so_and_nothing_else_does(daemon: Daemon, model: str) -> None:
    assert "vision" in daemon.post("/api/show", {"model": model}).json()["capabilities"]
    listed = {each["name"]: each["capabilities"] for each in daemon.get("/api/tags").json()["models"]}
    assert {name for name, capabilities in listed.items() if "vision" not in capabilities} <= {"blind:latest"}


def test_every_dialect_answers_the_same_picture_alike(daemon: Daemon, model: str) -> None:
    red, blue = (chat(daemon, picture, model=model) for picture in (RED, BLUE))
    said = red["message"]["content"]
    assert said != blue["message"]["content"]
    assert openai(daemon, model, RED)["choices"][0]["message"]["content"] == said
    assert openai(daemon, model, RED)["usage"]["prompt_tokens"] == red["prompt_eval_count"]
    (output,) = openai(daemon, model, RED, "/v1/responses")["output"]
    assert output["content"][0]["text"] == said
    assert anthropic(daemon, model, RED)["content"][0]["text"] == said
    asked = {"model": model, "prompt": "what is it?", "images": [RED], "options": OPTIONS, "stream": False}
    assert daemon.post("/api/generate", asked).json()["response"] == said


def test_a_gguf_models_own_template_shows_its_pictures(daemon: Daemon, model: str) -> None:
    if model != "llava":
        pytest.skip("it has its own template")
    red, blue = (chat(daemon, picture, model="go") for picture in (RED, BLUE))
    assert red["message"]["content"] != blue["message"]["content"]
    refused = daemon.post("/api/chat", {"model": "blind", "messages": [{"role": "user", "images": [RED]}]})
    assert refused.status_code == 400
    assert "does not support images" in refused.json()["error"]


def test_a_pictures_tokens_count(daemon: Daemon) -> None:
    assert chat(daemon, RED)["prompt_eval_count"] > chat(daemon)["prompt_eval_count"] + 16
    content = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": RED}}]
    counted = daemon.post(
        "/v1/messages/count_tokens", {"model": "eyes", "messages": [{"role": "user", "content": content}]}
    )
    assert counted.json()["input_tokens"] > 20


def test_a_tools_result_may_be_a_picture(daemon: Daemon) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "see", "arguments": {}}}]},
        {"role": "tool", "tool_name": "see", "content": "seen", "images": [RED]},
    ]
    both = [{**turns[2], "images": [image]} for image in (RED, BLUE)]
    said = [chat(daemon, messages=[*turns[:2], each])["message"]["content"] for each in both]
    assert said[0] != said[1]


def test_ten_clients_with_ten_pictures(daemon: Daemon, model: str) -> None:
    pictures = [base64_of(drawn((25 * number, 250 - 25 * number, 99), (40 + number, 64))) for number in range(10)]
    alone = [chat(daemon, picture, model=model)["message"]["content"] for picture in pictures]
    with ThreadPoolExecutor(10) as clients:
        together = list(clients.map(lambda picture: chat(daemon, picture, model=model)["message"]["content"], pictures))
    assert together == alone


def test_the_doctor_tries_pictures(daemon: Daemon) -> None:
    done = daemon.cli("doctor", "--model", "eyes", timeout=200)
    assert "✓ different pictures are answered differently, alone and together" in done.stderr, done.stderr


@pytest.mark.parametrize("image", [base64_of(b"GIF89a"), "http://127.0.0.1/x.png", base64_of(drawn(size=(1, 9000)))])
def test_a_bad_picture_is_the_clients_mistake(daemon: Daemon, image: str) -> None:
    body = {"model": "eyes", "messages": [{"role": "user", "content": "?", "images": [image]}]}
    answer = daemon.post("/api/chat", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid image input")
