"""The official Ollama client, unchanged: fake models for every corner, the real one for sense."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import CALL, WEATHER, user
from tests.servers.tiny import safetensors, tiny_files

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture
def client(daemon_with_fakes: Daemon) -> Iterator[Any]:
    with ollama.Client(host=daemon_with_fakes.url, trust_env=False) as made:
        yield made


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "parrot", "messages": user(text), **more}


def test_chat_whole_and_streamed_say_the_same(client: Any) -> None:
    whole = client.chat(**said("one two three"))
    assert whole.message.content == "one two three"
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count > 0
    pieces = list(client.chat(**said("one two three"), stream=True))
    assert "".join(piece.message.content for piece in pieces) == "one two three"
    assert [piece.done for piece in pieces] == [*[False] * (len(pieces) - 1), True]
    assert pieces[-1].prompt_eval_count == whole.prompt_eval_count


def test_generate_whole_streamed_raw_and_continued(client: Any) -> None:
    whole = client.generate("parrot", "good morning")
    assert whole.response == "good morning"
    assert whole.context
    again = client.generate("parrot", "and again", context=list(whole.context))
    assert again.prompt_eval_count > whole.prompt_eval_count
    assert "".join(piece.response for piece in client.generate("parrot", "a b c", stream=True)) == "a b c"
    assert client.generate("parrot", "x", raw=True).context is None


def test_tools_are_called_with_arguments_that_are_an_object(client: Any) -> None:
    answer = client.chat(**said(CALL, tools=[WEATHER]))
    [call] = answer.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})


def test_embeddings_of_one_and_of_many(client: Any) -> None:
    many = client.embed("parrot", ["a", "b"])
    assert len(many.embeddings) == 2
    assert list(client.embed("parrot", "a").embeddings[0]) == list(many.embeddings[0])
    assert len(client.embed("parrot", "a", dimensions=4).embeddings[0]) == 4
    assert len(client.embeddings("parrot", "a").embedding) == len(many.embeddings[0])


def test_models_are_listed_shown_copied_created_and_deleted(client: Any) -> None:
    assert "parrot:latest" in [model.model for model in client.list().models]
    shown = client.show("parrot")
    assert shown.modelinfo["fake.context_length"] == 4096
    assert client.copy("parrot", "second").status == "success"
    steps = list(client.create("third", from_="parrot", system="be brief", parameters={"num_predict": 2}, stream=True))
    assert steps[-1].status == "success"
    assert client.show("third").parameters is not None
    assert client.chat("third", user("one two three four")).eval_count == 2
    for name in ("second", "third"):
        assert client.delete(name).status == "success"
    assert {"second:latest", "third:latest"}.isdisjoint(model.model for model in client.list().models)


def test_a_pull_tells_its_progress(client: Any) -> None:
    steps = list(client.pull("fake/fetched", stream=True))
    assert [steps[0].status, steps[-1].status] == ["pulling manifest", "success"]
    assert any(step.total and step.completed for step in steps)
    assert client.pull("fake/fetched").status == "success"
    client.delete("fake/fetched")


def test_ps_tells_when_a_model_leaves_and_an_unload_lets_it_go(client: Any) -> None:
    client.generate("thinker", "", keep_alive="10m")
    loaded = {model.model: model for model in client.ps().models}["thinker:latest"]
    assert timedelta(minutes=9) < loaded.expires_at - datetime.now(UTC) < timedelta(minutes=11)
    assert client.generate("thinker", "", keep_alive=0).done_reason == "unload"
    wait_until(lambda: "thinker:latest" not in [model.model for model in client.ps().models])


@pytest.mark.parametrize("stream", [True, False])
def test_errors_have_ollamas_status_and_words(client: Any, stream: bool) -> None:
    def ask(**more: Any) -> None:
        answer = client.chat(**{**said("x", stream=stream), **more})
        if stream:
            list(answer)

    with pytest.raises(ollama.ResponseError) as missing:
        ask(model="nobody")
    assert (missing.value.status_code, missing.value.error) == (404, "model 'nobody' not found")
    with pytest.raises(ollama.ResponseError) as wrong:
        ask(options={"num_ctx": "many"})
    assert (wrong.value.status_code, wrong.value.error) == (400, 'option "num_ctx" must be of type integer')


def test_a_failure_in_the_middle_is_an_error_and_no_end(client: Any) -> None:
    with pytest.raises(ollama.ResponseError) as failed:
        list(client.chat(**said("fake:tokens=50 fake:rate=100 fake:fault=exit:70@5 go"), stream=True))
    assert failed.value.status_code == -1


@pytest.mark.model
@pytest.mark.mlx
def test_the_real_model_answers_sensibly_whole_and_streamed(daemon: StartDaemon, smollm2_models: Path) -> None:
    ask: dict[str, Any] = {
        "model": "smollm2:135m",
        "messages": user("What is the capital of France? Answer with one word."),
        "options": {"temperature": 0, "num_predict": 16},
        "keep_alive": -1,
    }
    server = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models)}})
    with ollama.Client(host=server.url, trust_env=False) as client:
        whole = client.chat(**ask)
        assert "Paris" in whole.message.content
        streamed = list(client.chat(**ask, stream=True))
        assert "".join(piece.message.content for piece in streamed) == whole.message.content
        for figure in ("total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"):
            assert getattr(streamed[-1], figure) > 0
        shown, [loaded] = client.show("smollm2:135m"), client.ps().models
        assert (shown.modelinfo["general.architecture"], "completion" in shown.capabilities) == ("llama", True)
        assert (int(loaded.size) > 50_000_000, loaded.expires_at.year > 2100) == (True, True)


WEIGHTS = 8 * 1024 * 1024
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the real store."""
    plugins = {"plugins": {"disabled": ["pypi", "ollama_store"]}}
    with Daemon(tmp_path_factory.mktemp("daemon"), fakes={}, settings=plugins) as started:
        yield started


@pytest.fixture
def creator(server: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url, trust_env=False) as made:
        yield made


def uploaded(creator: ollama.Client, folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """The digests of files, each uploaded as the client does it."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: creator.create_blob(folder / name) for name in files}


def blocks(folder: Path) -> int:
    """Bytes that a folder takes on disk; a file with two names counts once."""
    found = {(stat.st_dev, stat.st_ino): stat.st_blocks for stat in (path.stat() for path in folder.rglob("*"))}
    return 512 * sum(found.values())


def test_a_model_from_files_and_one_over_it_that_costs_no_copy_of_the_weights(
    server: Daemon, creator: ollama.Client, tmp_path: Path
) -> None:
    files = uploaded(creator, tmp_path / "weights", tiny_files(weights=WEIGHTS))
    steps = [step.status for step in creator.create("made", files=files, stream=True)]
    assert steps[-2:] == ["writing manifest", "success"]
    before = blocks(server.models)
    assert before > WEIGHTS
    tensor = safetensors({"a": ("F16", (2,), 4)})
    adapters = uploaded(creator, tmp_path / "lora", {"adapters.safetensors": tensor, "adapter_config.json": b"{}"})
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Arr!"}]
    laid_over: dict[str, Any] = {
        "system": "You are a pirate.",
        "template": TEMPLATE,
        "parameters": {"temperature": 0.5, "stop": ["a", "b\n"]},
        "messages": turns,
        "license": ["MIT", "and more"],
    }
    assert creator.create("derived", from_="made", adapters=adapters, **laid_over).status == "success"
    assert blocks(server.models) - before < 64 * 1024
    shown = server.post("/api/show", {"model": "derived"}).json()
    assert {key: shown[key] for key in ("system", "template", "messages", "license")} == {
        **{key: laid_over[key] for key in ("system", "template", "messages")},
        "license": "MIT\nand more",
    }
    assert shown["details"]["parent_model"] == "made:latest"
    assert f"ADAPTER {server.models}" in shown["modelfile"]
    assert shown["parameters"].split() == ["temperature", "0.5", "stop", '"a"', "stop", r'"b\n"']
    creator.delete("made")
    creator.delete("derived")
