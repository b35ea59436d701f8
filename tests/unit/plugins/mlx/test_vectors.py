"""Documents are scored as transformers scores them, by cross-encoders and by a language model that judges."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.engine_requests import ask, collect, running
from tests.random_models import RERANKERS, tiny_encoder

from ollmlx.errors import ContextExceeded, InvalidRequest, StorageError, Unsupported
from ollmlx.storekit import describe_folder, list_files
from ollmlx.testing import eventually
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import EmbedRequest, Options, RerankRequest, RerankResult
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.encoder.engine import EncoderEngine
from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx.engine.judge import AFTER, BEFORE

pytestmark = pytest.mark.mlx
MODELS: dict[str, Any] = RERANKERS["models"]
PAIRS: list[tuple[list[int], list[int]]] = RERANKERS["pairs"]
CROSS_ENCODERS = sorted(set(MODELS) - {"qwen3"})


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


REQUEST = RerankRequest(query=words(PAIRS[0][0]), documents=tuple(words(document) for _, document in PAIRS))


def reranker(tmp_path: Path, name: str, **changes: Any) -> Any:
    folder = tiny_encoder(tmp_path / name, name, MODELS)
    model = fake_model(name, store="hub", format="mlx", path=folder, capabilities=("rerank",))
    engine = MlxEngine() if name == "qwen3" else EncoderEngine()
    if name == "qwen3":
        _ask_in_tiny_words(folder / "tokenizer.json")
    return running(engine, folder, model=model, **changes)


def _ask_in_tiny_words(file: Path) -> None:
    """Make the tokenizer write the question around a document with the two special tokens, and name the two words."""
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["no"], vocabulary["yes"] = vocabulary.pop("w40"), vocabulary.pop("w41")
    steps = [(BEFORE, "[CLS]"), (AFTER, " [SEP]"), ("<Document>:", "[SEP]")]
    replaced = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in steps]
    replaced.append({"type": "Replace", "pattern": {"Regex": "<Instruct>[^\n]*\n<Query>:"}, "content": ""})
    content["normalizer"] = {"type": "Sequence", "normalizers": replaced}
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("name", CROSS_ENCODERS)
async def test_a_cross_encoder_scores_as_transformers_does(tmp_path: Path, name: str) -> None:
    async with reranker(tmp_path, name) as engine:
        together: RerankResult = await engine.rerank(REQUEST)
        alone = [
            (await engine.rerank(REQUEST.model_copy(update={"documents": (document,)}))).scores[0]
            for document in REQUEST.documents
        ]
    wanted = [1 / (1 + math.exp(-logit)) for (logit,) in MODELS[name]["logits"]]
    assert together.scores == pytest.approx(wanted, abs=2e-5)
    assert alone == pytest.approx(wanted, abs=2e-5)
    assert together.prompt_tokens == sum(len(query) + len(document) + 3 for query, document in PAIRS)


async def test_a_judge_scores_the_word_yes_against_no(tmp_path: Path) -> None:
    async with reranker(tmp_path, "qwen3") as engine:
        scores = (await engine.rerank(REQUEST)).scores
    wanted = [1 / (1 + math.exp(no - yes)) for no, yes in MODELS["qwen3"]["logits"]]
    # The documents of the recording hold w40 and w41 nowhere.
    assert scores == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("name", ["bert", "qwen3"])
async def test_long_documents_are_cut_and_said_to_be(tmp_path: Path, name: str) -> None:
    async with reranker(tmp_path, name, context_length=16) as engine:
        result = await engine.rerank(REQUEST)
        assert result.truncated == (2,)
        short = REQUEST.model_copy(update={"documents": (words(PAIRS[2][1][: 16 - 5]),)})
        assert (await engine.rerank(short)).scores[0] == pytest.approx(result.scores[2], abs=1e-5)
        with pytest.raises(ContextExceeded, match="exceed the context"):
            await engine.rerank(REQUEST.model_copy(update={"truncate": False}))
        with pytest.raises(InvalidRequest, match="leaves no room"):
            await engine.rerank(REQUEST.model_copy(update={"options": Options(num_ctx=5)}))


async def test_a_reranker_makes_no_vectors_and_other_models_no_scores(tmp_path: Path) -> None:
    async with reranker(tmp_path, "bert") as engine:
        with pytest.raises(Unsupported, match="it makes no embeddings"):
            await engine.embed(EmbedRequest(inputs=("w3",)))
    for other, family in ((EncoderEngine(), "bert"), (MlxEngine(), "qwen3")):
        async with running(other, tiny_encoder(tmp_path / f"other-{family}", family)) as engine:
            with pytest.raises(Unsupported, match="score documents"):
                await engine.rerank(REQUEST)


async def test_a_head_that_is_missing_is_named(tmp_path: Path) -> None:
    import mlx.core as mx

    folder = tiny_encoder(tmp_path / "m", "bert")
    weights: Any = mx.load(str(folder / "model.safetensors"))
    mx.save_safetensors(str(folder / "model.safetensors"), {f"bert.{name}": array for name, array in weights.items()})
    model = fake_model("m", store="hub", format="mlx", path=folder, capabilities=("rerank",))
    with pytest.raises((StorageError, Unsupported), match="of the head is missing"):
        async with running(EncoderEngine(), folder, model=model):
            pass


@pytest.mark.parametrize(
    ("name", "config", "files", "origin", "capabilities"),
    [
        ("bert", {}, {}, "local", ("rerank",)),
        ("bert", {"id2label": {"0": "no", "1": "yes"}}, {}, "local", ("embedding",)),
        ("qwen3", {}, {}, "hub:Qwen/Qwen3-Reranker-0.6B@main", ("rerank",)),
        ("qwen3", {}, {"1_LogitScore/config.json": {}}, "local", ("rerank",)),
        ("qwen3", {}, {}, "hub:Qwen/Qwen3-0.6B@main", ("completion",)),
    ],
)
def test_a_reranker_is_listed_as_one(
    tmp_path: Path, name: str, config: Any, files: Any, origin: str, capabilities: Any
) -> None:
    folder = tiny_encoder(tmp_path / "m", name, MODELS, **files)
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(stated | config), encoding="utf-8")
    assert describe_folder(folder, list_files(folder, tmp_path), origin).capabilities == capabilities


TEXTS = ("a", "a longer text about many things", "one more", "word " * 40, "b")


async def test_a_text_has_the_same_vector_alone_and_among_others_and_a_long_one_is_cut(architecture: Path) -> None:
    async with running(MlxEngine(), architecture, context_length=64) as engine:
        many = await engine.embed(EmbedRequest(inputs=TEXTS))
        for text, vector in zip(TEXTS, many.embeddings, strict=True):
            alone = await engine.embed(EmbedRequest(inputs=(text,)))
            assert alone.embeddings[0] == pytest.approx(vector, abs=1e-4)
            assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)
        few = await engine.embed(EmbedRequest(inputs=TEXTS[:1], dimensions=4))
        assert len(few.embeddings[0]) == 4
        with pytest.raises(InvalidRequest, match="dimensions must be at most"):
            await engine.embed(EmbedRequest(inputs=("a",), dimensions=10**6))
        cut = await engine.embed(EmbedRequest(inputs=("word " * 40,)))
        assert cut.prompt_tokens == 64
        with pytest.raises(ContextExceeded):
            await engine.embed(EmbedRequest(inputs=("word " * 40,), truncate=False))


async def test_a_long_text_in_pieces_has_the_vector_it_has_at_once(
    architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EmbedRequest(inputs=("a word or two about many things " * 20,))
    async with running(MlxEngine(), architecture, context_length=128) as engine:
        monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 2048)
        before = engine.status().progress
        whole = await engine.embed(text)
        assert engine.status().progress - before == 2, "the vector, and the end"
        monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 16)
        before = engine.status().progress
        pieces = await engine.embed(text)
        assert engine.status().progress - before == 8 + 1, "every piece is progress"
    assert whole.prompt_tokens == pieces.prompt_tokens == 128
    assert pieces.embeddings[0] == pytest.approx(whole.embeddings[0], abs=1e-3)


@pytest.mark.fault(40)
@pytest.mark.parametrize("architecture", ["llama"], indirect=True)
@pytest.mark.parametrize("inputs", [("word " * 3000,), ("word " * 30,) * 500], ids=["long", "many"])
async def test_a_cancelled_request_for_vectors_computes_no_more(
    architecture: Path, monkeypatch: pytest.MonkeyPatch, inputs: tuple[str, ...]
) -> None:
    monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 16)
    async with running(MlxEngine(), architecture, context_length=100_000) as engine:
        before = engine.status().progress
        leaving = asyncio.create_task(engine.embed(EmbedRequest(inputs=inputs)))
        await eventually(lambda: engine.status().progress > before + 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (await collect(engine, ask("hello"))).done.generated_tokens > 0
        assert engine.status().progress - before < 150
