"""The official Ollama client, unchanged: fake models for every corner, the real one for sense."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest
from tests.e2e.helpers import CALL, WEATHER, user

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


@pytest.fixture(scope="module")
def daemon_with_the_real_model(tmp_path_factory: pytest.TempPathFactory, smollm2_models: Path) -> Iterator[Daemon]:
    """One daemon for the module, with a models folder that may be changed, and the user's cache of packages."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(smollm2_models, folder / "models", copy_function=os.link)
    with Daemon(folder, env={"HOME": str(Path.home())}) as started:
        yield started


@pytest.fixture
def real(daemon_with_the_real_model: Daemon) -> Iterator[Any]:
    with ollama.Client(host=daemon_with_the_real_model.url, trust_env=False) as made:
        yield made


@pytest.mark.model
@pytest.mark.mlx
class TestWithTheRealModel:
    """Behaviour that needs a model which computes."""

    NAME = "smollm2:135m"

    def test_it_answers_sensibly_whole_and_streamed(self, real: Any) -> None:
        ask: dict[str, Any] = {
            "model": self.NAME,
            "messages": user("What is the capital of France? Answer with one word."),
            "options": {"temperature": 0, "num_predict": 16},
        }
        whole = real.chat(**ask)
        assert "Paris" in (whole.message.content)
        streamed = list(real.chat(**ask, stream=True))
        assert "".join(piece.message.content for piece in streamed) == whole.message.content
        for figure in ("total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"):
            assert getattr(streamed[-1], figure) > 0

    def test_it_is_listed_shown_and_seen_loaded(self, real: Any) -> None:
        assert self.NAME in [model.model for model in real.list().models]
        shown = real.show(self.NAME)
        assert shown.modelinfo["general.architecture"] == "llama"
        assert "completion" in (shown.capabilities)
        real.generate(self.NAME, "", keep_alive=-1)
        [loaded] = real.ps().models
        assert int(loaded.size) > 50_000_000
        assert loaded.expires_at.year > 2100

    def test_it_is_copied_deleted_and_pulled_again(self, real: Any) -> None:
        real.copy(self.NAME, "second")
        real.delete(self.NAME)
        assert self.NAME not in [model.model for model in real.list().models]
        with pytest.raises(ollama.ResponseError, match="not found"):
            real.show(self.NAME)
        assert real.generate("second", "Hello", options={"num_predict": 1}).eval_count == 1
        steps = [step.status for step in real.pull(self.NAME, stream=True)]
        assert (steps[0], steps[-1]) == ("pulling manifest", "success")
        assert real.generate(self.NAME, "Hello", options={"num_predict": 1}).eval_count == 1
        real.delete("second")
        left = [model.model for model in real.list().models]
        assert self.NAME in left
        assert "second:latest" not in left
