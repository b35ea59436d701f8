"""Folders of the MLX store: which are models, what is read from them, and the errors of damaged ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.servers.tiny import damage
from tests.unit.plugins.hub.conftest import found

from ollmlx import ModelName
from ollmlx.errors import Conflict, StorageError
from ollmlx_hub.store import MlxStore

Put = Callable[..., Path]
TINY = ModelName.parse("tiny")


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


async def test_hidden_folders_and_stray_files_are_no_models(store: MlxStore, put: Put, models: Path) -> None:
    put(".staging/half")
    (models / "notes.txt").write_text("hello")
    assert await store.list() == []


async def test_the_time_of_a_manifest_is_in_the_zone_of_python(store: MlxStore, tiny: Path) -> None:
    """Zone objects of pydantic could crash Python at its end: the daemon's exit status was 139."""
    manifest = {"name": "tiny", "created": "2026-01-02T05:04:05+02:00"}
    (tiny / "ollmlx.json").write_text(json.dumps(manifest), encoding="utf-8")
    model = await found(store, "tiny")
    assert model.modified_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert model.modified_at.tzinfo is UTC


async def test_a_model_is_described_from_its_files(store: MlxStore, tiny: Path) -> None:
    model = await found(store, "tiny")
    assert model.source == "local", "it was copied by hand"
    details = model.details
    assert (details.family, details.quantization_level, details.parameter_size) == ("llama", "int4", "12K")
    assert (details.context_length, details.embedding_length) == (2048, 64)
    assert model.info["general.architecture"] == "llama"
    assert model.info["general.parameter_count"] == 128 * 64 + 64 + 4096
    assert model.info["llama.attention.head_count_kv"] == 2
    assert model.capabilities == ("completion", "tools")
    assert model.chat_template is not None


async def test_the_digest_changes_with_files_and_defaults(store: MlxStore, tiny: Path) -> None:
    digests = {(await found(store, "tiny")).digest}
    (tiny / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    digests.add((await found(store, "tiny")).digest)
    (tiny / "generation_config.json").write_text('{"temperature": 0.3}')
    model = await found(store, "tiny")
    assert len(digests | {model.digest}) == 3
    assert model.defaults.options.temperature == 0.3


async def test_an_unchanged_model_is_read_once(store: MlxStore, tiny: Path) -> None:
    assert (await store.list())[0] is (await store.list())[0]


async def test_a_folder_that_holds_another_model_is_a_conflict(store: MlxStore, put: Put) -> None:
    put("a_b_c")
    await store.copy((await store.list())[0], ModelName.parse("x/y_z"))
    with pytest.raises(Conflict, match=r"holds x/y_z, not x_y/z") as caught:
        await store.resolve(ModelName.parse("x_y/z"))
    assert caught.value.code == "STO007"


# -- damaged models --------------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
DAMAGE: dict[str, tuple[str, bytes | None]] = {
    "has no config.json": ("config.json", None),
    "config.json is not valid JSON": ("config.json", b'{"model_type": '),
    "config.json is not a JSON object": ("config.json", b"[]"),
    "names no model_type": ("config.json", b'{"model_type": "../x"}'),
    "has no model*.safetensors": ("model.safetensors", None),
    "its header does not fit the file": ("model.safetensors", b"\xff" * 64),
    "tokenizer_config.json is not valid JSON": ("tokenizer_config.json", b"\xff\xfe"),
    "'model-00002.safetensors' is missing": (INDEX, b'{"weight_map": {"a": "model-00002.safetensors"}}'),
    "ollmlx.json is damaged": ("ollmlx.json", b"{}"),
    "chat_template.json is not valid JSON": ("chat_template.json", b"[" * 100_000),
}


@pytest.mark.fault(30)
@pytest.mark.parametrize("reason", DAMAGE)
async def test_a_damaged_model_is_not_listed_and_its_error_says_why(store: MlxStore, tiny: Path, reason: str) -> None:
    file, content = DAMAGE[reason]
    if content is None:
        (tiny / file).unlink()
    else:
        (tiny / file).write_bytes(content)
    assert await store.list() == []
    with pytest.raises(StorageError, match=reason.replace("*", r"\*")) as caught:
        await store.resolve(TINY)
    assert caught.value.code == "MDL003"


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("file", "kind", "words"),
    [
        ("model.safetensors", "link outside", "leads out of the models folder"),
        ("", "link outside", "leads out of the models folder"),
        ("model.safetensors", "pipe", "not a regular file"),
        ("model.safetensors", "link to nothing", "broken link"),
        ("model.safetensors", "loop", "broken link"),
    ],
)
async def test_links_and_files_of_other_kinds_are_refused(
    store: MlxStore, tiny: Path, tmp_path: Path, file: str, kind: str, words: str
) -> None:
    damage(tiny / file, kind, tmp_path)
    assert await store.list() == []
    with pytest.raises(StorageError, match=words):
        await store.resolve(TINY)


@pytest.mark.fault(34)
async def test_links_inside_the_models_folder_are_followed(store: MlxStore, tiny: Path, models: Path) -> None:
    blobs = models.parent / "blobs"
    blobs.mkdir()
    (tiny / "model.safetensors").rename(blobs / "weights")
    (tiny / "model.safetensors").symlink_to(blobs / "weights")
    assert (await found(store, "tiny")).size > 4096


async def test_the_folder_of_all_models_may_be_a_link_to_another_disk(
    store: MlxStore, tiny: Path, models: Path, tmp_path: Path
) -> None:
    disk = models.rename(tmp_path / "disk")
    models.symlink_to(disk)
    assert (await found(store, "tiny")).size > 4096
    damage(disk / tiny.name / "model.safetensors", "link outside", tmp_path)
    assert await store.list() == []


@pytest.mark.fault(36)
async def test_a_file_without_permission_is_named_and_read_again_later(
    store: MlxStore, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse_weights(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "model.safetensors":
            refuse()
        return opened(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse_weights)
        assert await store.list() == []
        with pytest.raises(StorageError, match=r"cannot read tiny/model\.safetensors: Permission denied"):
            await store.resolve(TINY)
    assert await store.resolve(TINY) is not None


@pytest.mark.fault(36)
async def test_a_models_folder_without_permission_is_a_storage_error(
    store: MlxStore, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(StorageError, match="cannot read the models folder: Permission denied") as caught:
            await store.list()
        assert caught.value.code == "STO004"
        with pytest.raises(StorageError, match="Permission denied"):
            await store.resolve(TINY)
    assert len(await store.list()) == 1


@pytest.mark.fault(35)
async def test_a_read_only_folder_is_read_and_its_models_cannot_be_changed(
    store: MlxStore, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await found(store, "tiny")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        await store.delete(model.name)
    assert await store.resolve(model.name) == model
