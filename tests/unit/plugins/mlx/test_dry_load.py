"""The dry load: a model whose tensors, tokenizer or template do not fit is found without reading its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.random_models import tiny_encoder
from tests.servers.tiny import write_model
from tests.unit.doctor.contexts import healthy

from ollmlx.doctor.checks.loadable import loadable
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.inventory import Inventory
from ollmlx.doctor.machine import Completed
from ollmlx_mlx.engine.dry_load import examine

ROWS = 64
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": ROWS,
}
VOCABULARY = {f"t{number}": number for number in range(ROWS)}
TOKENIZER = {"added_tokens": [], "model": {"type": "WordLevel", "unk_token": "t0", "vocab": VOCABULARY}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of one layer that mlx-lm can load, with weights that are not zero."""
    mlx = pytest.importorskip("mlx.core")
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    model = Model(ModelArgs.from_dict(CONFIG))
    path = write_model(tmp_path / "models/mlx/org_tiny", config__json=json.dumps(CONFIG).encode())
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
    mlx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return path


def writing(name: str, content: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def change_config(**changes: Any) -> Callable[[Path], None]:
    return writing("config.json", {**CONFIG, **changes})


def tokens(count: int) -> Callable[[Path], None]:
    return writing("tokenizer.json", {"model": {"vocab": {f"t{number}": number for number in range(count)}}})


def zeros(path: Path) -> None:
    file = path / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(8 + int.from_bytes(opened.read(8), "little"))
        opened.truncate(size)


def test_a_model_that_can_be_loaded_is_no_finding(folder: Path) -> None:
    assert examine(folder)[0] is None


@pytest.mark.finding("MDL003", "MDL004")
@pytest.mark.parametrize(
    ("broken", "problem", "code"),
    [
        (change_config(hidden_size=128), "do not fit config.json", "MDL003"),
        (change_config(num_key_value_heads=2), "do not fit config.json", "MDL003"),
        (change_config(num_hidden_layers=2), "do not fit config.json", "MDL003"),
        (change_config(num_hidden_layers=10**6), "claims 1000000 layers", "MDL003"),
        (change_config(rms_norm_eps=None, num_attention_heads="x"), "do not fit config.json", "MDL003"),
        (change_config(model_type="unheard_of"), "not supported", "MDL004"),
        (tokens(65), "another model's tokenizer", "MDL003"),
        (tokens(20), "another model's tokenizer", "MDL003"),
        (writing("tokenizer.json", []), "tokenizer.json is damaged", "MDL003"),
        (zeros, "tensors hold only zeros", "MDL003"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_why(
    folder: Path, broken: Callable[[Path], None], problem: str, code: str
) -> None:
    broken(folder)
    found, reported = examine(folder)
    assert found is not None
    assert problem in found
    assert reported == code


def telling(problem: str | None, status: int | None = 0, calls: list[Sequence[str]] | None = None) -> Any:
    """Return a child that says the same of every folder."""

    async def run(argv: Sequence[str], seconds: float) -> Completed:
        if calls is not None:
            calls.append(argv)
        lines = (json.dumps({"folder": one, "problem": problem, "code": "MDL003"}) for one in argv[4:])
        return Completed(status, "\n".join(lines) if status == 0 else "", "Fatal Python error")

    return run


async def found_in(context: CheckContext) -> list[str]:
    return [one.title for one in await loadable.run(context)]


async def test_each_model_is_examined_once_until_it_changes(folder: Path, tmp_path: Path) -> None:
    calls: list[Sequence[str]] = []
    context = replace(healthy(tmp_path), child=telling("it is odd", calls=calls))
    titles = ["org/tiny cannot be loaded: it is odd"]
    assert [await found_in(context), await found_in(context)] == [titles, titles]
    assert len(calls) == 1
    os.utime(folder / "tokenizer.json", (1, 1))
    assert await found_in(replace(context, inventory=Inventory())) == titles
    assert len(calls) == 2


async def test_a_model_that_ends_python_is_named(folder: Path, tmp_path: Path) -> None:
    context = replace(healthy(tmp_path), child=telling(None, -11))
    assert await found_in(context) == ["org/tiny cannot be loaded: loading it on trial ends Python: Fatal Python error"]


async def test_a_template_that_does_not_parse_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for x in %}", encoding="utf-8")
    (title,) = await found_in(replace(healthy(tmp_path), child=telling(None)))
    assert "its chat template cannot be used" in title


async def test_models_for_which_there_was_no_time_are_noted(folder: Path, tmp_path: Path) -> None:
    context = replace(healthy(tmp_path), child=telling(None, None), version_of=lambda _: "1")
    (note,) = await loadable.run(context)
    assert note.severity.value == "skipped"


@pytest.mark.parametrize("family", ["bert", "modernbert", "nomic_bert", "xlm-roberta"])
def test_an_encoder_is_built_as_the_engine_builds_it(tmp_path: Path, family: str) -> None:
    pytest.importorskip("mlx.core")
    encoder = tiny_encoder(tmp_path / family, family)
    assert examine(encoder) == (None, "MDL003")
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    for key in ("intermediate_size", "n_inner"):
        if isinstance(config.get(key), int):
            config[key] *= 2
    (encoder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    problem, code = examine(encoder)
    assert problem is not None
    assert "has the shape" in problem
    assert code == "MDL003"
