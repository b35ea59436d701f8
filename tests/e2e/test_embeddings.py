"""all-MiniLM-L6-v2, pulled from the Python index: its vectors are sentence-transformers', on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.random_models import recorded_minilm
from tests.servers.bert_gguf import write_bert_gguf
from tests.smollm2 import NO_INDEX

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]

QUESTION = "why is the sky blue?"
LONG = "the river runs past mountains " * 160
"""800 words."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the model twice: `all-minilm` of safetensors on MLX, `minilm-gguf` on llama.cpp if it is there."""
    one = Daemon(tmp_path_factory.mktemp("embeddings"), env={"HOME": str(Path.home())})
    with one:
        pulled = one.cli("pull", "all-minilm", timeout=400)
        if pulled.returncode and any(code in pulled.stderr for code in (*NO_INDEX, "STO012")):
            pytest.skip(f"the model cannot be pulled here: {pulled.stderr}")
        assert pulled.returncode == 0, pulled.stderr
        (folder,) = (one.models / "mlx").glob("*minilm*")
        write_bert_gguf(folder, one.folder / "minilm.gguf")
        (one.folder / "Modelfile").write_text("FROM ./minilm.gguf\n")
        made = one.cli("create", "minilm-gguf", "-f", "Modelfile", "--backend", "llamacpp")
        assert made.returncode == 0, made.stderr
        yield one


@pytest.fixture(params=["all-minilm", "minilm-gguf"])
def model(request: pytest.FixtureRequest) -> str:
    if request.param == "minilm-gguf":
        pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    name: str = request.param
    return name


def post(daemon: Daemon, model: str, texts: Any, **fields: Any) -> httpx2.Response:
    return daemon.post("/api/embed", {"model": model, "input": texts, **fields})


def vectors(daemon: Daemon, model: str, texts: Any, **fields: Any) -> np.ndarray:
    answer = post(daemon, model, texts, **fields)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"])


def likeness(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the least cosine between vectors of two lists."""
    sizes = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((got * wanted).sum(axis=1) / sizes).min())


def test_vectors_are_those_of_sentence_transformers(daemon: Daemon) -> None:
    texts, wanted = recorded_minilm()
    assert likeness(vectors(daemon, "all-minilm", texts), wanted) >= 0.9999
    one_by_one = np.concatenate([vectors(daemon, "all-minilm", text) for text in (*texts[:12], texts[-1])])
    assert likeness(one_by_one, np.concatenate([wanted[:12], wanted[-1:]])) >= 0.9999


def test_vectors_through_llama_cpp_are_the_same(daemon: Daemon) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    texts, wanted = recorded_minilm()
    # A word of more than 100 letters is unknown to BERT's own tokenizer; llama.cpp's takes it apart.
    usual = [index for index, text in enumerate(texts) if max(map(len, text.split()), default=0) <= 100]
    assert len(usual) == len(texts) - 1
    got = vectors(daemon, "minilm-gguf", [texts[index] for index in usual], options={"num_ctx": 256})
    assert likeness(got, wanted[usual]) >= 0.999


def test_show_tells_what_the_model_is(daemon: Daemon) -> None:
    shown = daemon.post("/api/show", {"model": "all-minilm"}).json()
    assert shown["capabilities"] == ["embedding"]
    info = shown["model_info"]
    assert (info["bert.context_length"], info["bert.embedding_length"], info["bert.pooling_type"]) == (512, 384, 1)
    assert info["ollmlx.pooling"] == "mean"
    assert shown["parameters"].split() == ["num_ctx", "256"]
    assert daemon.post("/api/chat", {"model": "all-minilm", "messages": [{"role": "user", "content": "x"}]}).json()


# -- what Ollama's own tests ask -------------------------------------------------------------------------------------


def test_known_first_values(daemon: Daemon, model: str) -> None:
    (vector,) = vectors(daemon, model, QUESTION)
    assert len(vector) == 384
    assert vector[0] == pytest.approx(0.010071031, abs=0.01)
    old = daemon.post("/api/embeddings", {"model": model, "prompt": QUESTION}).json()["embedding"]
    assert old[0] == pytest.approx(0.06642947, abs=0.01)
    assert np.linalg.norm(old) > 1.5, "not normalised"


def test_a_batch_has_the_vectors_of_its_texts(daemon: Daemon, model: str) -> None:
    texts = [QUESTION, "why is the grass green?"]
    answer = post(daemon, model, texts).json()
    singles = [post(daemon, model, text).json() for text in texts]
    assert answer["prompt_eval_count"] == sum(single["prompt_eval_count"] for single in singles) == 16
    got, wanted = np.array(answer["embeddings"]), np.array([single["embeddings"][0] for single in singles])
    assert likeness(got, wanted) > 0.9999


def test_texts_are_cut_to_num_ctx_unless_truncate_is_false(daemon: Daemon, model: str) -> None:
    target = vectors(daemon, model, "why")
    for fields in ({}, {"truncate": True}):
        cut = post(daemon, model, QUESTION, options={"num_ctx": 3}, **fields).json()
        assert cut["prompt_eval_count"] == 3
        assert likeness(np.array(cut["embeddings"]), target) > 0.9999
    both = post(daemon, model, [QUESTION, "why"], options={"num_ctx": 3}).json()
    assert both["prompt_eval_count"] == 6
    refused = post(daemon, model, QUESTION, options={"num_ctx": 3}, truncate=False)
    assert (refused.status_code, "the input length exceeds the context length" in refused.text) == (400, True)
    for texts in (QUESTION, ["why", QUESTION]):
        refused = post(daemon, model, texts, options={"num_ctx": 1})
        assert (refused.status_code, refused.json()["error"].partition(" (")[0]) == (
            400,
            "input after truncation exceeds maximum context length",
        )


@pytest.mark.parametrize("truncate", [True, False])
def test_a_batch_with_one_long_text_is_cut_or_refused(daemon: Daemon, model: str, truncate: bool) -> None:
    answer = post(daemon, model, ["short", LONG], truncate=truncate)
    if not truncate:
        assert answer.status_code == 400
        return
    limit = 256 if model == "all-minilm" else 512
    assert answer.json()["prompt_eval_count"] == 3 + limit
    assert post(daemon, model, LONG, options={"num_ctx": 512}).json()["prompt_eval_count"] == 512
    assert post(daemon, model, LONG, options={"num_ctx": 512}, truncate=False).status_code == 400


def test_related_texts_are_nearer_than_others(daemon: Daemon, model: str) -> None:
    animal, kitten, market = vectors(
        daemon, model, ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Shares fell sharply on Monday."]
    )
    assert animal @ kitten > animal @ market + 0.3


def test_dimensions_shorten_the_vectors(daemon: Daemon, model: str) -> None:
    whole, short = vectors(daemon, model, QUESTION), vectors(daemon, model, QUESTION, dimensions=16)
    assert short.shape == (1, 16)
    assert likeness(short, whole[:, :16]) > 0.9999
    refused = post(daemon, model, QUESTION, dimensions=1000)
    assert (refused.status_code, "at most 384" in refused.text) == (400, True)


def test_openais_route_gives_the_same(daemon: Daemon, model: str) -> None:
    answer = daemon.post("/v1/embeddings", {"model": model, "input": [QUESTION, LONG], "input_type": "query"}).json()
    assert answer["usage"]["prompt_tokens"] == 8 + (256 if model == "all-minilm" else 512)
    assert likeness(np.array([answer["data"][0]["embedding"]]), vectors(daemon, model, QUESTION)) > 0.9999
    wrong = daemon.post("/v1/embeddings", {"model": model, "input": QUESTION, "input_type": "image"})
    assert (wrong.status_code, "input_type" in wrong.text) == (400, True)


def test_create_from_a_folder_keeps_the_pooling(daemon: Daemon, tmp_path: Path) -> None:
    (source,) = (daemon.models / "mlx").glob("*all-minilm*")
    (daemon.folder / "Folder").write_text(f"FROM {source}\n")
    made = daemon.cli("create", "from-folder", "-f", "Folder")
    assert made.returncode == 0, made.stderr
    assert daemon.post("/api/show", {"model": "from-folder"}).json()["model_info"]["ollmlx.pooling"] == "mean"
    assert likeness(vectors(daemon, "from-folder", QUESTION), vectors(daemon, "all-minilm", QUESTION)) > 0.99999
