"""SmolLM2: the import is the model in the GGUF file, and the engine serves it; BackendSuite shows the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ollmlx_mlx.daemon.backend import find_blas
from ollmlx_mlx.daemon.machine import MlxMachine

pytestmark = [pytest.mark.model, pytest.mark.mlx, pytest.mark.slow]
DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[4]


def run(program: str, *arguments: object) -> dict[str, Any]:
    """Run a program of `data` with the BLAS of this machine. Returns what it prints."""
    blas = find_blas(MlxMachine.here(), None).choose("auto", 0)
    argv = [sys.executable, "-P", str(DATA / program), *map(str, arguments), str(blas.streams)]
    env = {**os.environ, **blas.env, "PYTHONPATH": str(ROOT)}  # the programs import from tests
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def agreement(smollm2_gguf: Path, smollm2_folder: Path) -> dict[str, Any]:
    return run("teacher_forced.py", smollm2_folder, smollm2_gguf, DATA / "llamacpp_answers.json")


def test_the_best_token_is_that_of_the_weights_in_float32(agreement: dict[str, Any]) -> None:
    assert agreement["places"] >= 640
    assert agreement["same"] / agreement["places"] >= 0.97, agreement


def test_no_logit_is_wild(agreement: dict[str, Any]) -> None:
    assert agreement["worst"] < 0.1 * agreement["spread"], agreement
    assert agreement["packed_worst"] < 0.1 * agreement["spread"], agreement


def test_llama_cpp_would_have_answered_the_same(agreement: dict[str, Any]) -> None:
    # llama.cpp rounds activations to 8 bits, so close calls differ; rows in a wrong order agree almost nowhere.
    assert agreement["llama_same"] / agreement["llama_places"] >= 0.85, agreement


def test_tokenization_of_the_real_vocabulary_equals_llama_cpp(smollm2_folder: Path) -> None:
    from tokenizers import Tokenizer

    fixture = json.loads((DATA / "llamacpp_ids.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    for text, expected in zip(fixture["strings"], fixture["smollm2"]["plain"], strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == expected
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode("Hello world").ids == fixture["smollm2"]["with_bos"]


def test_the_folder_says_what_the_file_said(smollm2_folder: Path) -> None:
    config = json.loads((smollm2_folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["model.embed_tokens"]["bits"] == 8
    assert config["eos_token_id"] == [2, 0]
    assert config["rope_theta"] == 100000.0
    assert config["tie_word_embeddings"] is True
    tokenizer = json.loads((smollm2_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "<|im_start|>" in tokenizer["chat_template"]
    assert {path.suffix for path in smollm2_folder.iterdir()} == {".json", ".safetensors"}


@pytest.fixture(scope="module")
def session(smollm2_folder: Path) -> dict[str, Any]:
    return run("engine_session.py", smollm2_folder)


def test_greedy_and_seeded_answers_are_the_same_alone_and_in_a_batch(session: dict[str, Any]) -> None:
    assert session["batching"]["batch"] == session["batching"]["alone"]
    assert "Paris" in session["batching"]["alone"][0]


@pytest.mark.fault(43)
def test_num_ctx_is_a_real_limit_and_the_dropped_tokens_are_counted(session: dict[str, Any]) -> None:
    tokens, dropped, reason = session["shapes"]["small"]
    assert tokens + 8 <= 64
    assert dropped > 100
    assert reason == "length"


def test_an_answer_may_outgrow_the_context_by_forgetting_old_tokens(session: dict[str, Any]) -> None:
    assert session["shapes"]["shifted"] == [60, "length"]


def test_a_plain_prompt_is_continued_and_its_ids_can_be_sent_back(session: dict[str, Any]) -> None:
    assert session["shapes"]["raw"].startswith(" Paris")
    assert session["shapes"]["continued"] is True


def test_what_cannot_be_done_is_refused_with_the_reason(session: dict[str, Any]) -> None:
    refusals = session["refusals"]
    assert refusals["tools"][1].endswith("does not support tools")
    assert refusals["suffix"][1].endswith("does not support insert")
    assert refusals["context"][0] == "invalid"


def test_texts_of_one_meaning_have_vectors_of_one_direction(session: dict[str, Any]) -> None:
    cat, kitten, law = session["vectors"]
    assert np.dot(cat, kitten) > np.dot(cat, law)
