"""Attack: a model whose metadata has values of an unexpected type. It emptied the list of models, and could not go."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers
from tests.servers.tiny import tiny_files, write_model

from ollmlx import ModelName, Store
from ollmlx.formats.safetensors import read_tensors
from ollmlx.storekit import describe_gguf
from ollmlx_hub.store import MlxStore
from ollmlx_ollama_store.check import OllamaCheck
from ollmlx_ollama_store.store import OllamaStore

GGUF_KEYS = (
    "general.architecture", "general.file_type", "general.alignment", "general.name", "llama.context_length",
    "llama.embedding_length", "llama.pooling_type", "llama.vision.block_count", "tokenizer.chat_template",
    "tokenizer.ggml.tokens",
)  # fmt: skip
GGUF_VALUES: tuple[Any, ...] = (["an", "array"], [], "text", "", 2**31 - 1, float("nan"), float("-inf"), True)
JSON_KEYS = (
    "model_type", "architectures", "text_config", "quantization", "quantization_config", "hidden_size", "vocab_size",
    "max_position_embeddings", "num_hidden_layers", "rope_theta",
)  # fmt: skip
JSON_VALUES: tuple[Any, ...] = (
    None, True, -1, 2**70, 1e400, "text", "\ud800", [], [[]], {}, {"bits": []}, {"mode": {}}, ["\ud800"],
)  # fmt: skip
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json")


async def require_harmless(store: Store) -> None:
    """Check that a store lists `good`, and that `bad` can be resolved or is refused with a reason, and deleted."""
    names = [model.name.short for model in await store.list()]
    assert names.count("good") == 1
    assert set(names) <= {"good", "bad"}
    for model in await store.list():
        model.model_dump_json()
    await store.delete(ModelName.parse("bad"))
    assert [model.name.short for model in await store.list()] == ["good"]


@pytest.mark.parametrize("key", GGUF_KEYS)
async def test_no_metadata_of_a_gguf_file_hides_other_models_or_keeps_its_own(tmp_path: Path, key: str) -> None:
    for number, value in enumerate(GGUF_VALUES):
        folder = OllamaFolder(tmp_path / str(number))
        folder.add("good")
        metadata: dict[str, Any] = {key: value}
        folder.add("bad", usual_layers(tiny_gguf(fill=2, **metadata)), file_type="")
        await require_harmless(OllamaStore(folder.root))


@pytest.mark.parametrize("key", JSON_KEYS)
@pytest.mark.parametrize("file", JSON_FILES)
async def test_no_value_in_a_json_file_hides_other_models_or_keeps_its_own(tmp_path: Path, file: str, key: str) -> None:
    for number, value in enumerate(JSON_VALUES):
        files = tiny_files()
        document = json.loads(files.get(file, b"{}"))
        files[file] = json.dumps({**document, key: value}).encode()
        root = tmp_path / str(number) / "mlx"
        write_model(root / "good")
        write_model(root / "bad", files)
        await require_harmless(MlxStore(root))


async def test_text_that_is_no_utf_8_can_be_shown(tmp_path: Path) -> None:
    folder = OllamaFolder(tmp_path)
    broken = "\udcff\udcfe"
    metadata: dict[str, Any] = {"general.name": broken, f"general.{broken}": broken, "tokenizer.chat_template": broken}
    folder.add("bad", usual_layers(tiny_gguf(**metadata)), file_type="")
    (model,) = await OllamaStore(folder.root).list()
    orjson.dumps({**model.info, "template": model.chat_template, "tensors": read_tensors(model)})


async def test_an_error_that_nobody_expected_is_one_models_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = OllamaFolder(tmp_path / "models")
    folder.add("good")
    folder.add("bad", usual_layers(tiny_gguf(fill=2, file_type=99)), file_type="")

    def surprised(header: Any, **options: Any) -> Any:
        if header.metadata["general.file_type"] == 99:
            raise KeyError("a bug")
        return describe_gguf(header, **options)

    monkeypatch.setattr("ollmlx_ollama_store.description.describe_gguf", surprised)
    store = OllamaStore(folder.root)
    for _ in range(3):
        assert [model.name.short for model in await store.list()] == ["good"]
    assert caplog.text.count("not listed: bad") == 1
    assert "KeyError" in caplog.text
    (finding,) = await OllamaCheck(folder.root).run(cast("Any", SimpleNamespace(deep=False)))
    assert "bad" in finding.title
    assert "ollmlx rm bad" in finding.instead
    await require_harmless(store)


def test_a_daemon_lists_the_others_and_deletes_the_bad_model_of_each_store(daemon: StartDaemon) -> None:
    one = daemon(settings={"plugins": {"disabled": ["pypi"]}})
    folder = OllamaFolder(one.models)
    folder.add("good-gguf")
    metadata: dict[str, Any] = {"general.file_type": ["an", "array"]}
    folder.add("bad-gguf", usual_layers(tiny_gguf(fill=2, **metadata)), file_type="")
    bad = tiny_files()
    bad["config.json"] = json.dumps({**json.loads(bad["config.json"]), "model_type": ["llama"]}).encode()
    write_model(one.models / "mlx" / "good-mlx")
    write_model(one.models / "mlx" / "bad-mlx", bad)

    listed = {model["name"] for model in one.get("/api/tags").json()["models"]}
    assert {"good-gguf:latest", "good-mlx:latest"} <= listed
    assert "bad-mlx:latest" not in listed
    assert "not listed: bad-mlx" in one.log_text
    doctor = one.cli("doctor", "storage", "--deep", "--json")
    assert "bad-mlx" in doctor.stdout
    for name in ("bad-gguf", "bad-mlx"):
        assert one.cli("rm", name).returncode == 0
    assert {model["name"] for model in one.get("/api/tags").json()["models"]} == {
        "parrot:latest", "good-gguf:latest", "good-mlx:latest",
    }  # fmt: skip
