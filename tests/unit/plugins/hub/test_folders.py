"""What the store makes of folders: found, refused, damaged, copied, derived, deleted."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.servers.tiny import safetensors, tiny_files

from ollmlx import ModelName, OllmlxError, locked
from ollmlx.errors import Conflict, InvalidRequest, NotFound, StorageError, Unsupported
from ollmlx.testing import eventually
from ollmlx.types import CreateRequest, Message, ModelDefaults, Options, PullProgress
from ollmlx_hub.store import MlxStore

Put = Callable[..., Path]


async def made(store: MlxStore, request: CreateRequest, importer: Any = None) -> list[str]:
    return [step.status async for step in store.create(request, importer)]


def parse(text: str) -> ModelName:
    return ModelName.parse(text)


async def test_a_folder_copied_by_hand_is_a_model(store: MlxStore, put: Put) -> None:
    put("org_by-hand")
    model = await store.resolve(parse("org/by-hand"))
    assert model is not None
    assert str(model.name) == "org/by-hand:latest"
    assert model.source == "local"
    assert [listed.name for listed in await store.list()] == [model.name]


async def test_the_time_of_a_manifest_is_in_the_zone_of_python(store: MlxStore, put: Put) -> None:
    """A zone of pydantic's that is left when Python ends has crashed it: the daemon's exit status was 139."""
    manifest = {"name": "tiny", "created": "2026-01-02T05:04:05+02:00"}
    (put("tiny") / "ollmlx.json").write_text(json.dumps(manifest), encoding="utf-8")
    model = await store.resolve(parse("tiny"))
    assert model is not None
    assert model.modified_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert model.modified_at.tzinfo is UTC


async def test_what_the_files_say_is_told(store: MlxStore, put: Put) -> None:
    put("tiny")
    model = await store.resolve(parse("tiny"))
    assert model is not None
    assert model.details.model_dump(include={"family", "quantization_level", "context_length", "embedding_length"}) == {
        "family": "llama",
        "quantization_level": "int4",
        "context_length": 2048,
        "embedding_length": 64,
    }
    assert model.info["general.architecture"] == "llama"
    assert model.info["general.parameter_count"] == 128 * 64 + 64 + 4096
    assert model.details.parameter_size == "12K"
    assert model.info["llama.attention.head_count_kv"] == 2
    assert model.capabilities == ("completion", "tools")
    assert model.chat_template is not None


async def test_the_digest_follows_files_and_defaults(store: MlxStore, put: Put) -> None:
    folder = put("tiny")
    digests = [(await store.list())[0].digest]
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    digests.append((await store.list())[0].digest)
    (folder / "generation_config.json").write_text('{"temperature": 0.3}')
    digests.append((await store.list())[0].digest)
    assert len(set(digests)) == 3
    assert (await store.list())[0].defaults.options.temperature == 0.3


async def test_what_did_not_change_is_not_read_again(store: MlxStore, put: Put) -> None:
    put("tiny")
    first = await store.list()
    assert (await store.list())[0] is first[0]


DAMAGE: dict[str, tuple[str, bytes | None]] = {
    "has no config.json": ("config.json", None),
    "config.json is not valid JSON": ("config.json", b'{"model_type": '),
    "config.json is not a JSON object": ("config.json", b"[]"),
    "names no model_type": ("config.json", b'{"model_type": "../x"}'),
    "has no model*.safetensors": ("model.safetensors", None),
    "its header does not fit the file": ("model.safetensors", b"\xff" * 64),
    "tokenizer_config.json is not valid JSON": ("tokenizer_config.json", b"\xff\xfe"),
    "'model-00002.safetensors' is missing": (
        "model.safetensors.index.json",
        b'{"weight_map": {"a": "model-00002.safetensors"}}',
    ),
    "ollmlx.json is damaged": ("ollmlx.json", b"{}"),
    "chat_template.json is not valid JSON": ("chat_template.json", b"[" * 100_000),
}


@pytest.mark.fault(30)
@pytest.mark.parametrize("reason", DAMAGE)
async def test_a_damaged_model_is_not_listed_and_asked_for_says_why(store: MlxStore, put: Put, reason: str) -> None:
    file, content = DAMAGE[reason]
    folder = put("tiny")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    assert await store.list() == []
    with pytest.raises(StorageError, match=reason.replace("*", r"\*")) as caught:
        await store.resolve(parse("tiny"))
    assert caught.value.code == "MDL003"


@pytest.mark.fault(34)
async def test_links_may_not_lead_out_of_the_models_folder(store: MlxStore, put: Put, tmp_path: Path) -> None:
    folder = put("tiny")
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(tiny_files()["model.safetensors"])
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    assert await store.list() == []
    with pytest.raises(StorageError, match="leads out of the models folder"):
        await store.resolve(parse("tiny"))


@pytest.mark.fault(34)
async def test_a_linked_folder_may_not_lead_out_either(store: MlxStore, put: Put, tmp_path: Path) -> None:
    folder = put("tiny")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert await store.list() == []
    with pytest.raises(StorageError, match="leads out"):
        await store.resolve(parse("tiny"))


@pytest.mark.fault(34)
async def test_links_inside_the_models_folder_are_followed(store: MlxStore, put: Put, models: Path) -> None:
    folder = put("tiny")
    blobs = models.parent / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "weights")
    (folder / "model.safetensors").symlink_to(blobs / "weights")
    model = await store.resolve(parse("tiny"))
    assert model is not None
    assert model.size > 4096


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", ["pipe", "broken", "loop"])
async def test_what_is_no_file_is_refused_without_waiting_for_it(store: MlxStore, put: Put, kind: str) -> None:
    weights = put("tiny") / "model.safetensors"
    weights.unlink()
    if kind == "pipe":
        os.mkfifo(weights)
    else:
        weights.symlink_to(weights if kind == "loop" else weights.parent / "nothing")
    with pytest.raises(StorageError, match=r"not a regular file|broken link"):
        await store.resolve(parse("tiny"))


async def test_a_folder_that_holds_another_model_is_a_clash(store: MlxStore, put: Put) -> None:
    put("a_b_c")
    await store.copy((await store.list())[0], parse("x/y_z"))
    with pytest.raises(Conflict, match=r"holds x/y_z, not x_y/z") as caught:
        await store.resolve(parse("x_y/z"))
    assert caught.value.code == "STO008"


async def test_hidden_folders_and_stray_files_are_no_models(store: MlxStore, put: Put, models: Path) -> None:
    put(".staging/half")
    (models / "notes.txt").write_text("hello")
    assert await store.list() == []


async def test_a_copy_takes_no_room(store: MlxStore, put: Put) -> None:
    put("tiny")
    model = (await store.list())[0]
    await store.copy(model, parse("second:small"))
    copy = await store.resolve(parse("second:small"))
    assert copy is not None
    assert (copy.path / "model.safetensors").samefile(model.path / "model.safetensors")


async def test_a_model_over_another_lays_its_defaults_over_it(store: MlxStore, put: Put) -> None:
    put("tiny")
    base = (await store.list())[0]
    first = ModelDefaults(system="Be kind.", options=Options(temperature=0.5, top_k=7))
    await made(store, CreateRequest(name=parse("kind"), base=base, defaults=first))
    kind = await store.resolve(parse("kind"))
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="hello"))
    second = ModelDefaults(options=Options(temperature=0.1, stop=("x",)), messages=turns)
    statuses = await made(store, CreateRequest(name=parse("kinder"), base=kind, defaults=second))
    assert statuses == ["writing manifest", "success"]
    kinder = await store.resolve(parse("kinder"))
    assert kinder is not None
    assert kinder.defaults.system == "Be kind."
    assert kinder.defaults.options.stated == {"temperature": 0.1, "top_k": 7, "stop": ("x",)}
    assert kinder.defaults.messages == turns
    assert kinder.details.parent_model == "kind:latest"
    assert (kinder.path / "model.safetensors").samefile(base.path / "model.safetensors")
    await store.delete(base.name)
    assert await store.resolve(parse("kinder")) == kinder


async def test_a_model_may_be_made_over_itself(store: MlxStore, put: Put) -> None:
    put("tiny")
    for system in ("one", "two"):
        base = (await store.list())[0]
        await made(store, CreateRequest(name=parse("tiny"), base=base, defaults=ModelDefaults(system=system)))
    (model,) = await store.list()
    assert model.defaults.system == "two"
    assert (model.path / "model.safetensors").is_file()


async def test_an_adapter_comes_along(store: MlxStore, put: Put, tmp_path: Path) -> None:
    put("tiny")
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes(safetensors({"a": ("F16", (2,), 4)}))
    (adapter / "adapter_config.json").write_text("{}")
    request = CreateRequest(name=parse("tuned"), base=(await store.list())[0], defaults=ModelDefaults(adapter=adapter))
    await made(store, request)
    await store.copy((await store.resolve(parse("tuned"))) or pytest.fail("not there"), parse("tuned-2"))
    for name in ("tuned", "tuned-2"):
        model = await store.resolve(parse(name))
        assert model is not None
        assert model.defaults.adapter == model.path / "adapter"
        assert (model.path / "adapter" / "adapters.safetensors").is_file()


async def test_a_model_is_made_from_safetensors(store: MlxStore, put: Put, models: Path) -> None:
    folder = put(".uploads")
    files = {path: folder / path for path in tiny_files()}
    assert (await made(store, CreateRequest(name=parse("mine"), files=files)))[-1] == "success"
    model = await store.resolve(parse("mine"))
    assert model is not None
    assert json.loads((model.path / "ollmlx.json").read_text())["source"] == "local"


class Copying:
    """An importer that copies a tiny model into place and remembers what it was asked."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail
        self.asked: list[tuple[str, str, Mapping[str, Any] | None]] = []

    async def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        self.asked.append((source.name, format, options))
        assert list(into.iterdir()) == []
        yield PullProgress(status="importing")
        if self.fail:
            raise StorageError("cannot import")
        for path, data in tiny_files().items():
            (into / path).write_bytes(data)


async def test_a_model_is_made_from_a_gguf_by_the_importer(store: MlxStore, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-abc"
    blob.write_bytes(b"GGUF")
    importer = Copying()
    request = CreateRequest(name=parse("mine"), files={"x.gguf": blob})
    assert await made(store, request, importer) == ["importing", "writing manifest", "success"]
    assert importer.asked == [("x.gguf", "gguf", None)]
    assert await store.resolve(parse("mine")) is not None
    assert list((store.layout.root / ".staging").iterdir()) == []


async def test_a_failed_import_leaves_nothing(store: MlxStore, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-abc"
    blob.write_bytes(b"GGUF")
    with pytest.raises(StorageError, match="cannot import"):
        await made(store, CreateRequest(name=parse("mine"), files={"x.gguf": blob}), Copying(fail=True))
    assert await store.list() == []
    assert list((store.layout.root / ".staging").iterdir()) == []


async def test_quantising_goes_through_the_importer(store: MlxStore, put: Put) -> None:
    plain = tiny_files()
    plain["config.json"] = plain["config.json"].replace(b'"quantization"', b'"was"')
    put("plain", plain)
    importer = Copying()
    base = (await store.list())[0]
    await made(store, CreateRequest(name=parse("small"), base=base, quantize="int4"), importer)
    files = {path.name: path for path in base.path.iterdir() if path.name != "ollmlx.json"}
    await made(store, CreateRequest(name=parse("mine"), files=files, quantize="int8"), importer)
    assert importer.asked == [("plain", "mlx", {"quantize": "int4"}), ("mine", "mlx", {"quantize": "int8"})]


REFUSED: dict[str, tuple[dict[str, str], type[OllmlxError], str]] = {
    "nothing": ({}, InvalidRequest, "neither 'from' or 'files'"),
    "a pickle": ({"pytorch_model.bin": "", "config.json": ""}, InvalidRequest, "pickle"),
    "no weights": ({"config.json": ""}, InvalidRequest, "no safetensors or GGUF"),
    "no configuration": ({"model.safetensors": ""}, InvalidRequest, "config.json is missing"),
    "two GGUFs": ({"a.gguf": "", "b.gguf": ""}, InvalidRequest, "more than one GGUF"),
    "code": ({"config.json": "", "model.safetensors": "", "modeling.py": ""}, InvalidRequest, "do not belong"),
    "a path upwards": ({"config.json": "", "model.safetensors": "", "../x.json": ""}, InvalidRequest, "invalid file"),
    "an absolute path": ({"config.json": "", "model.safetensors": "", "/x.json": ""}, InvalidRequest, "invalid file"),
    "no importer": ({"a.gguf": ""}, Unsupported, "no backend imports"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_makes_no_model_is_refused(store: MlxStore, tmp_path: Path, case: str) -> None:
    names, kind, message = REFUSED[case]
    blob = tmp_path / "blob"
    blob.write_bytes(b"x")
    with pytest.raises(kind, match=message):
        await made(store, CreateRequest(name=parse("mine"), files=dict.fromkeys(names, blob)))
    assert await store.list() == []


@pytest.mark.parametrize("template", ["{% bad %}", "{{ if .System }}{{ .System }}{{ end }}"])
async def test_a_template_that_cannot_be_used_makes_no_model(store: MlxStore, put: Put, template: str) -> None:
    put("tiny")
    request = CreateRequest(name=parse("x"), base=(await store.list())[0], defaults=ModelDefaults(template=template))
    with pytest.raises(InvalidRequest, match=r"template error|Go's template language"):
        await made(store, request)
    assert await store.resolve(parse("x")) is None


async def test_quantised_weights_are_not_quantised_again(store: MlxStore, put: Put) -> None:
    put("tiny")
    request = CreateRequest(name=parse("x"), base=(await store.list())[0], quantize="int4")
    with pytest.raises(Unsupported, match="quantization is only supported"):
        await made(store, request, Copying())


async def test_deleting_what_is_not_there_is_not_found(store: MlxStore, put: Put) -> None:
    put("tiny")
    (model,) = await store.list()
    await store.delete(model.name)
    with pytest.raises(NotFound):
        await store.delete(model.name)


@pytest.mark.fault(22)
async def test_a_change_waits_for_another_daemons(store: MlxStore, put: Put) -> None:
    import asyncio

    put("tiny")
    (model,) = await store.list()
    async with locked(store.layout.staging.lock(model.name)):
        deleting = asyncio.create_task(MlxStore(store.layout.root).delete(model.name))
        await asyncio.sleep(0)
        assert len(await store.list()) == 1
        assert not deleting.done()
    await eventually(lambda: deleting.done())
    assert await store.list() == []


async def test_a_swap_that_a_crash_cut_in_two_is_undone(store: MlxStore, put: Put, models: Path) -> None:
    put("tiny").rename(models / ".aside")
    (models / ".swap").mkdir()
    (models / ".aside").rename(models / ".swap" / "tiny")
    assert (await store.resolve(parse("tiny"))) is not None


@pytest.mark.fault(35)
async def test_a_read_only_folder_serves_and_refuses_changes(
    store: MlxStore, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("tiny")
    (model,) = await store.list()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        await store.delete(model.name)
    assert await store.resolve(model.name) == model


@pytest.mark.fault(36)
async def test_a_file_that_may_not_be_read_is_named_and_read_again_when_it_may(
    store: MlxStore, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("tiny")
    opened = Path.open

    def refuse(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert await store.list() == []
        with pytest.raises(StorageError, match=r"cannot read tiny/model\.safetensors: Permission denied"):
            await store.resolve(parse("tiny"))
    assert await store.resolve(parse("tiny")) is not None


@pytest.mark.fault(36)
async def test_a_models_folder_of_somebody_else_is_a_storage_error(
    store: MlxStore, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("tiny")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(StorageError, match="cannot read the models folder: Permission denied") as caught:
            await store.list()
        assert caught.value.code == "STO004"
        with pytest.raises(StorageError, match="Permission denied"):
            await store.resolve(parse("tiny"))
    assert len(await store.list()) == 1
