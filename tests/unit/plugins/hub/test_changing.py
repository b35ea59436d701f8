"""Models of the MLX store that are copied, created and deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.servers.tiny import safetensors, tiny_files, write_model
from tests.unit.plugins.hub.conftest import found

from ollmlx import ModelName, OllmlxError, locked
from ollmlx.errors import Conflict, InvalidRequest, StorageError, Unsupported
from ollmlx.testing import eventually
from ollmlx.types import CreateRequest, Message, ModelDefaults, Options, PullProgress
from ollmlx_hub.store import MlxStore

TINY = ModelName.parse("tiny")


async def create(store: MlxStore, name: str, *, importer: Any = None, **fields: Any) -> list[str]:
    request = CreateRequest(name=ModelName.parse(name), **fields)
    return [step.status async for step in store.create(request, importer)]


async def test_a_model_over_another_adds_its_defaults(store: MlxStore, tiny: Path) -> None:
    base = await found(store, "tiny")
    first = ModelDefaults(system="Be kind.", options=Options(temperature=0.5, top_k=7))
    await create(store, "kind", base=base, defaults=first)
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="hello"))
    second = ModelDefaults(options=Options(temperature=0.1, stop=("x",)), messages=turns)
    statuses = await create(store, "kinder", base=await found(store, "kind"), defaults=second)
    assert statuses == ["writing manifest", "success"]
    kinder = await found(store, "kinder")
    assert kinder.defaults.system == "Be kind."
    assert kinder.defaults.options.stated == {"temperature": 0.1, "top_k": 7, "stop": ("x",)}
    assert kinder.defaults.messages == turns
    assert kinder.details.parent_model == "kind:latest"
    assert (kinder.path / "model.safetensors").samefile(base.path / "model.safetensors")
    await store.delete(base.name)
    assert await found(store, "kinder") == kinder


async def test_a_model_may_be_created_over_itself(store: MlxStore, tiny: Path) -> None:
    for system in ("one", "two"):
        await create(store, "tiny", base=await found(store, "tiny"), defaults=ModelDefaults(system=system))
    (model,) = await store.list()
    assert model.defaults.system == "two"
    assert (model.path / "model.safetensors").is_file()


async def test_an_adapter_is_linked_into_the_model_and_its_copies(store: MlxStore, tiny: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes(safetensors({"a": ("F16", (2,), 4)}))
    (adapter / "adapter_config.json").write_text("{}")
    await create(store, "tuned", base=await found(store, "tiny"), defaults=ModelDefaults(adapter=adapter))
    await store.copy(await found(store, "tuned"), ModelName.parse("tuned-2:small"))
    for name in ("tuned", "tuned-2:small"):
        model = await found(store, name)
        assert (model.path / "model.safetensors").samefile(tiny / "model.safetensors"), "it takes no space on the disk"
        assert model.defaults.adapter == model.path / "adapter"
        assert (model.path / "adapter" / "adapters.safetensors").is_file()


async def test_a_model_is_created_from_safetensors(store: MlxStore, put: Callable[..., Path]) -> None:
    folder = put(".uploads")
    assert (await create(store, "mine", files={path: folder / path for path in tiny_files()}))[-1] == "success"
    model = await found(store, "mine")
    assert json.loads((model.path / "ollmlx.json").read_text())["source"] == "local"


class Copying:
    """An importer that writes a tiny model, and records its arguments."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail
        self.calls: list[tuple[str, str, Mapping[str, Any] | None]] = []

    async def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        self.calls.append((source.name, format, options))
        assert list(into.iterdir()) == []
        yield PullProgress(status="importing")
        if self.fail:
            raise StorageError("cannot import")
        write_model(into)


async def test_a_gguf_file_is_imported_and_a_failed_import_leaves_nothing(store: MlxStore, tmp_path: Path) -> None:
    (tmp_path / "sha256-abc").write_bytes(b"GGUF")
    files = {"x.gguf": tmp_path / "sha256-abc"}
    with pytest.raises(StorageError, match="cannot import"):
        await create(store, "mine", files=files, importer=Copying(fail=True))
    assert await store.list() == []
    importer = Copying()
    assert await create(store, "mine", files=files, importer=importer) == ["importing", "writing manifest", "success"]
    assert importer.calls == [("x.gguf", "gguf", None)]
    assert (await found(store, "mine")).source == "gguf:x.gguf"
    assert list((store.layout.root / ".staging").iterdir()) == []


async def test_quantising_goes_through_the_importer(store: MlxStore, put: Callable[..., Path]) -> None:
    plain = tiny_files()
    plain["config.json"] = plain["config.json"].replace(b'"quantization"', b'"was"')
    put("plain", plain)
    importer = Copying()
    base = await found(store, "plain")
    await create(store, "small", base=base, quantize="int4", importer=importer)
    files = {path.name: path for path in base.path.iterdir() if path.name != "ollmlx.json"}
    await create(store, "mine", files=files, quantize="int8", importer=importer)
    assert importer.calls == [("plain", "mlx", {"quantize": "int4"}), ("mine", "mlx", {"quantize": "int8"})]


GOOD = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (("model.safetensors",), InvalidRequest, "config.json is missing"),
        (("a.gguf", "b.gguf"), InvalidRequest, "more than one GGUF"),
        ((*GOOD, "modeling.py"), InvalidRequest, "do not belong"),
        ((*GOOD, "../x.json"), InvalidRequest, "invalid file"),
        ((*GOOD, "/x.json"), InvalidRequest, "invalid file"),
        (("a.gguf",), Unsupported, "no backend imports"),
    ],
)
async def test_files_that_are_no_model_are_refused(
    store: MlxStore, tmp_path: Path, names: tuple[str, ...], kind: type[OllmlxError], message: str
) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    with pytest.raises(kind, match=message):
        await create(store, "mine", files=dict.fromkeys(names, tmp_path / "blob"))
    assert await store.list() == []


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"defaults": ModelDefaults(template="{% bad %}")}, InvalidRequest, "template error"),
        ({"defaults": ModelDefaults(template="{{ if .System }}{{ oops }}")}, InvalidRequest, "not defined: 'oops'"),
        ({"quantize": "int4"}, Unsupported, "quantization is only supported"),
        ({"defaults": ModelDefaults(adapter=Path("/nowhere"))}, InvalidRequest, "not a LoRA adapter"),
        (
            {"defaults": ModelDefaults(adapter=Path("lora.gguf"))},
            InvalidRequest,
            "llama.cpp takes it, and MLX does not",
        ),
    ],
)
async def test_a_request_that_cannot_be_met_creates_no_model(
    store: MlxStore, tiny: Path, fields: dict[str, Any], kind: type[OllmlxError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await create(store, "x", base=await found(store, "tiny"), importer=Copying(), **fields)
    assert await store.resolve(ModelName.parse("x")) is None


@pytest.mark.fault(22)
async def test_a_change_waits_until_another_daemon_has_finished(store: MlxStore, tiny: Path) -> None:
    async with locked(store.layout.staging.lock(TINY)):
        deleting = asyncio.create_task(MlxStore(store.layout.root).delete(TINY))
        await asyncio.sleep(0)
        assert len(await store.list()) == 1
        assert not deleting.done()
    await eventually(lambda: deleting.done())
    assert await store.list() == []


async def test_a_swap_that_a_crash_interrupted_is_undone(store: MlxStore, tiny: Path, models: Path) -> None:
    (models / ".swap").mkdir()
    tiny.rename(models / ".swap" / "tiny")
    await found(store, "tiny")


async def test_a_folder_that_holds_other_models_is_not_removed(store: MlxStore, models: Path) -> None:
    write_model(models / "org/one")
    with pytest.raises(Conflict, match="other models lie in it"):
        await store.delete(ModelName.parse("org"))
    assert (models / "org/one/config.json").is_file()
