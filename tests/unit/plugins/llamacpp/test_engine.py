"""The engine over llama.cpp: texts are embedded some at a time, so that a long list shows progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ollmlx.errors import ContextExceeded, InvalidRequest, RunnerFailed
from ollmlx.protocol import RunnerConfig
from ollmlx.testing import fake_model
from ollmlx.types import EmbedRequest

engine = pytest.importorskip("ollmlx_llamacpp.engine", reason="pip install 'ollmlx[llamacpp]'", exc_type=ImportError)


class FakeClient:
    """llama.cpp with a model whose tokens are words, and whose vectors are the words' lengths, summed up."""

    def __init__(self) -> None:
        self.calls: list[list[list[int]]] = []
        self.most = 99

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": [len(word) for word in body["content"].split()]}
        if len(self.calls) >= self.most:
            raise RunnerFailed("llama.cpp closed the connection")
        self.calls.append(body["input"])
        found = [{"index": index, "embedding": [sum(tokens), 0.0]} for index, tokens in enumerate(body["input"])]
        return {"data": found[::-1]}

    async def close(self) -> None:
        pass


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
async def loaded(client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """An engine whose model has a context of 8 tokens, and that embeds four tokens at a time."""
    monkeypatch.setattr(engine, "GROUP_TOKENS", 4)
    folder = tmp_path / "socket"
    server = engine.server.LlamaCppServer(folder / "s.sock", "key", 2, "cpu", (), template="{{ x }}", native=None)
    made = engine.LlamaCppEngine(start=lambda config: server, connect=lambda socket, key: client)
    await made.load(RunnerConfig(runner="r", token="t", model=fake_model(), context_length=8))
    yield made
    await made.close()


async def test_texts_go_in_groups_and_come_back_in_their_order(loaded: Any, client: FakeClient) -> None:
    texts = ("a", "bb cc", "d e f g h", "iiii", "k l m", "nn")
    result = await loaded.embed(EmbedRequest(inputs=texts))
    assert [len(call) for call in client.calls] == [2, 1, 2, 1], "four tokens at a time, a longer text alone"
    assert [vector[0] for vector in result.embeddings] == [1, 4, 5, 4, 3, 2]
    assert result.prompt_tokens == 13
    assert loaded.status().progress == len(texts) + len(client.calls), "each is progress"


async def test_a_group_that_fails_fails_the_request(loaded: Any, client: FakeClient) -> None:
    client.most = 1
    with pytest.raises(RunnerFailed):
        await loaded.embed(EmbedRequest(inputs=("a b c", "d e f")))
    assert loaded.status().active == 0


async def test_a_text_that_is_too_long_is_cut_or_refused(loaded: Any, client: FakeClient) -> None:
    long = "x " * 9
    assert (await loaded.embed(EmbedRequest(inputs=(long,)))).prompt_tokens == 8
    with pytest.raises(ContextExceeded, match="the input length exceeds the context length"):
        await loaded.embed(EmbedRequest(inputs=(long,), truncate=False))
    with pytest.raises(InvalidRequest, match="an input is empty"):
        await loaded.embed(EmbedRequest(inputs=("",)))


async def test_a_vector_is_shortened_to_unit_length(loaded: Any) -> None:
    (vector,) = (await loaded.embed(EmbedRequest(inputs=("abc",), dimensions=1))).embeddings
    assert vector == (1.0,)
