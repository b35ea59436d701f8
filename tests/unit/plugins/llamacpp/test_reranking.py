"""Documents are scored by llama.cpp, with the head that a GGUF file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.engine_requests import running
from tests.random_models import RERANKERS, tiny_encoder
from tests.servers.bert_gguf import write_bert_gguf

from ollmlx import read_gguf_header
from ollmlx.errors import ContextExceeded
from ollmlx.storekit import describe_gguf
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import RerankRequest

engine = pytest.importorskip("ollmlx_llamacpp.engine", reason="pip install 'ollmlx[llamacpp]'", exc_type=ImportError)
pytestmark = pytest.mark.mlx
PAIRS: list[tuple[list[int], list[int]]] = RERANKERS["pairs"]


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def cross_encoder(folder: Path) -> Path:
    """Write a tiny BERT, with the words that a WordPiece vocabulary must have."""
    tiny_encoder(folder, "bert", RERANKERS["models"])
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["[UNK]"], vocabulary["[MASK]"] = vocabulary.pop("w62"), vocabulary.pop("w63")
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def scores_of(folder: Path) -> list[float]:
    """Return what MLX computes for the ids that llama.cpp makes: no [SEP] at the end, and one type for both texts."""
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder.load import load_encoder

    loaded = load_encoder(folder, on_cpu=True, scores=True)
    assert loaded.head is not None
    pairs = [[1, *query, 2, *document] for query, document in PAIRS]
    hidden = [loaded.network(mx.array([ids]), None, mx.zeros((1, len(ids)), mx.int32)) for ids in pairs]
    scores: list[Any] = [loaded.head(one, [one.shape[1]]).tolist() for one in hidden]
    return [rows[0][0] for rows in scores]


async def test_a_gguf_cross_encoder_scores_as_its_folder_does(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "m")
    file = write_bert_gguf(folder, tmp_path / "m.gguf", ranks=True)
    assert describe_gguf(read_gguf_header(file)).capabilities == ("rerank",)
    model = fake_model("m", format="gguf", path=file, capabilities=("rerank",))
    request = RerankRequest(query=words(PAIRS[0][0]), documents=tuple(words(document) for _, document in PAIRS))
    options = {"slots": 2, "exact": True}
    async with running(engine.LlamaCppEngine(), file, model=model, context_length=24, engine_options=options) as loaded:
        before = loaded.status().progress
        result = await loaded.rerank(request)
        assert result.truncated == (2,)
        assert result.scores[:2] == pytest.approx(scores_of(folder)[:2], abs=1e-3)
        assert loaded.status().progress > before
        cut = " ".join(request.documents[2].split()[: 24 - 5 - 2])
        again = await loaded.rerank(request.model_copy(update={"documents": (cut,)}))
        assert again.scores[0] == pytest.approx(result.scores[2], abs=1e-4)
        with pytest.raises(ContextExceeded):
            await loaded.rerank(request.model_copy(update={"truncate": False}))
