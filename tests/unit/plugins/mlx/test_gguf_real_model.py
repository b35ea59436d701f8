"""The imported SmolLM2 is the model in the GGUF file: same tokens, same tokenization, same template."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.linux_cpu.blas import choose
from ollmlx_mlx.linux_cpu.blas_probe import ChildProbe, ProbeMemory

pytestmark = [pytest.mark.model, pytest.mark.mlx, pytest.mark.slow]
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def agreement(smollm2_gguf: Path, smollm2_folder: Path) -> dict[str, Any]:
    machine = MlxMachine.here()
    blas = choose(machine, ChildProbe(machine, ProbeMemory(None)))
    argv = [sys.executable, "-P", str(DATA / "teacher_forced.py"), str(smollm2_folder), str(smollm2_gguf)]
    done = subprocess.run(
        [*argv, str(DATA / "llamacpp_answers.json")],
        env={**os.environ, **blas.env},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


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
