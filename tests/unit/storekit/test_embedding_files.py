"""A folder's own files say how texts become vectors, and `show` tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.random_models import write_folder

from ollmlx.errors import StorageError, Unsupported
from ollmlx.storekit import describe_folder, list_files, read_recipe
from ollmlx.types import Options

BERT = {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 512, "hidden_size": 8}
STEPS = ("Transformer", "", "Pooling", "1_Pooling", "Dense", "2_Dense", "Dense", "3_Dense", "Normalize", "4_Normalize")
MODULES = [{"type": f"sentence_transformers.models.{STEPS[at]}", "path": STEPS[at + 1]} for at in range(0, 10, 2)]


def folder_with(folder: Path, files: dict[str, Any], config: Any = BERT) -> Path:
    made = write_folder(folder, config)
    for name, content in files.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(json.dumps(content), encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("last",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken"}, ("last",)),
    ],
)
def test_the_pooling_is_what_its_file_says(tmp_path: Path, config: Any, pooling: tuple[str, ...]) -> None:
    recipe = read_recipe(folder_with(tmp_path / "m", {"1_Pooling/config.json": config}))
    assert recipe.pooling == pooling
    assert recipe.stated


def test_a_model_without_files_is_mean_pooled_and_says_so(tmp_path: Path) -> None:
    recipe = read_recipe(write_folder(tmp_path / "m", BERT))
    assert (recipe.pooling, recipe.stated) == (("mean",), False)
    assert "assumed" in recipe.described


def test_steps_prompts_and_lengths_are_read(tmp_path: Path) -> None:
    files = {
        "modules.json": MODULES,
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "include_prompt": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "find: ", "passage": "text: "},
            "default_prompt_name": "query",
        },
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": True},
    }
    recipe = read_recipe(folder_with(tmp_path / "m", files))
    assert recipe.dense == ("2_Dense", "3_Dense")
    assert [recipe.prompt(kind) for kind in ("query", "document", None)] == ["find: ", "text: ", "find: "]
    assert (recipe.counts_prompt, recipe.max_tokens, recipe.lower_case) == (False, 256, True)


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({"1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}}, Unsupported, "weightedmean"),
        ({"1_Pooling/config.json": {"pooling_mode": "attention"}}, Unsupported, "attention"),
        ({"1_Pooling/config.json": {}}, Unsupported, "none is named"),
        ({"modules.json": [{"type": "sentence_transformers.models.LSTM", "path": "1_LSTM"}]}, Unsupported, "LSTM"),
        ({"modules.json": [{"type": "x.Pooling", "path": "../../secret"}]}, StorageError, "impossible folder"),
        ({"modules.json": {}}, StorageError, "not a JSON list"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, files: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        read_recipe(folder_with(tmp_path / "m", files))


@pytest.mark.parametrize(
    ("kind", "context", "options"),
    [("bert", 512, Options(num_ctx=256)), ("xlm-roberta", 510, Options(num_ctx=256))],
)
def test_show_tells_pooling_and_context(tmp_path: Path, kind: str, context: int, options: Options) -> None:
    files = {
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
        "sentence_bert_config.json": {"max_seq_length": 256},
    }
    folder = folder_with(tmp_path / "m", files, {**BERT, "model_type": kind})
    described = describe_folder(folder, list_files(folder, tmp_path), "local")
    assert described.capabilities == ("embedding",)
    assert described.details.context_length == context
    assert described.defaults.options == options
    assert (described.info["ollmlx.pooling"], described.info[f"{kind}.pooling_type"]) == ("cls", 2)


def test_a_recipe_that_is_not_supported_is_shown(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", {"1_Pooling/config.json": {"pooling_mode": "attention"}})
    described = describe_folder(folder, list_files(folder, tmp_path), "local")
    assert "not supported: attention" in described.info["ollmlx.pooling"]
