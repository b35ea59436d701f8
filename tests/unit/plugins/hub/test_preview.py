"""A pull can be judged before it begins: what a name stands for, its size, and the headers of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import tiny_gguf
from tests.servers.serving import no_wait
from tests.servers.tiny import tiny_files
from tests.unit.plugins.hub.conftest import LOOPBACK, REPO

from ollmlx import ModelName
from ollmlx.errors import NotFound, OllmlxError
from ollmlx.storekit import to_transfer_thread
from ollmlx.storekit.outline import outlined_model
from ollmlx.types import PullCandidate
from ollmlx_hub.client import HubAccess
from ollmlx_hub.gguf_search import GgufSearch
from ollmlx_hub.search import HubSearch
from ollmlx_hub.source import HubSource
from ollmlx_ollama_store.store import OllamaStore

pytestmark = pytest.mark.slow


def source(hub: HubServer) -> HubSource:
    return HubSource(HubAccess(hub.url, None), private_hosts=LOOPBACK, sleep=no_wait)


async def previewed(source: HubSource | HubSearch | GgufSearch, name: str, into: Path) -> list[PullCandidate]:
    return [each async for each in source.preview(ModelName.parse(name), into)]


async def test_the_outline_of_a_repository_is_described_as_the_model_itself(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/large", tiny_files(weights=20 << 20))
    (found,) = await previewed(source(hub), "org/large", tmp_path / "outline")
    model = await to_transfer_thread(outlined_model, ModelName.parse("org/large"), found)
    assert model is not None
    assert found.size == sum(map(len, hub.repositories["org/large"].revisions["main"].values()))
    assert (model.format, model.details.context_length, model.details.quantization_level) == ("mlx", 2048, "int4")
    weights = tmp_path / "outline/model.safetensors"
    assert weights.stat().st_size > 20 << 20
    assert weights.stat().st_blocks * 512 <= 2 << 20, "the weights themselves were written"
    assert not (tmp_path / "outline/tokenizer.json").exists()


async def test_a_searched_name_shows_its_candidates_in_the_order_of_the_rule(hub: HubServer, tmp_path: Path) -> None:
    for repository in ("Newone-2-3B-8bit", "Newone-2-3B-Instruct-4bit", "Newone-2-7B-4bit"):
        hub.add(f"mlx-community/{repository}", tiny_files())
    found = await previewed(
        HubSearch(source(hub), ("mlx-community",), gpu=True, memory=1 << 34), "newone2:3b", tmp_path
    )
    assert [each.origin for each in found] == [
        "hub:mlx-community/Newone-2-3B-Instruct-4bit@main",
        "hub:mlx-community/Newone-2-3B-8bit@main",
    ]


async def test_a_file_without_a_readable_header_is_told_before_it_is_downloaded(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/broken", {**tiny_files(), "model.safetensors": b"<html>" + b"\0" * (3 << 20)})
    with pytest.raises(OllmlxError, match=r"model\.safetensors"):
        await previewed(source(hub), "org/broken", tmp_path)


# -- GGUF repositories -------------------------------------------------------------------------------------------------

GGUF = tiny_gguf(weights=4 << 20)
FILES = {
    "README.md": b"#",
    "Newone-2-3B-Instruct-Q4_K_M.gguf": GGUF,
    "Newone-2-3B-Instruct-Q8_0.gguf": tiny_gguf(fill=9),
    "Newone-2-3B-Instruct-BF16-00001-of-00002.gguf": GGUF,
    "Newone-2-3B-Instruct-F32.gguf": GGUF,
    "mmproj-Newone-Q4_K_M.gguf": GGUF,
    "nested/Newone-2-3B-Instruct-Q4_0.gguf": GGUF,
}


def gguf_search(hub: HubServer, *, gpu: bool = False) -> GgufSearch:
    return GgufSearch(source(hub), ("bartowski", "unsloth"), gpu=gpu, memory=16 << 30)


@pytest.mark.parametrize(
    ("repository", "name", "file"),
    [
        ("bartowski/Newone-2-3B-Instruct-GGUF", "newone2:3b", "Newone-2-3B-Instruct-Q4_K_M.gguf"),
        ("bartowski/Makers_Newone-2-3B-Instruct-GGUF", "newone2", "Newone-2-3B-Instruct-Q4_K_M.gguf"),
        ("unsloth/Newone-2-3B-Instruct-GGUF", "newone2:3b-instruct-q8_0", "Newone-2-3B-Instruct-Q8_0.gguf"),
        ("unsloth/Newone-2-3B-Instruct-GGUF", "newone2:3b-f32", "Newone-2-3B-Instruct-F32.gguf"),
        ("unsloth/Newone-2-3B-Instruct-Q8_0-GGUF", "newone2", "Newone-2-3B-Instruct-Q4_K_M.gguf"),
        ("unsloth/Newone-2-3B-Instruct-GGUF", "newone2:3b-bf16", None),  # in parts only
        ("unsloth/Newone-2-Coder-3B-GGUF", "newone2:3b", None),
        ("unsloth/Newone-2-7B-Instruct-GGUF", "newone2:3b", None),
        ("somebody/Newone-2-3B-Instruct-GGUF", "newone2:3b", None),
        ("unsloth/Newone-2-3B-Instruct", "newone2:3b", None),
    ],
)
async def test_without_a_gpu_a_name_finds_the_file_of_its_quantisation(
    hub: HubServer, tmp_path: Path, repository: str, name: str, file: str | None
) -> None:
    hub.add(repository, FILES)
    if file is None:
        with pytest.raises(NotFound, match="no GGUF repository of bartowski, unsloth is newone2"):
            await previewed(gguf_search(hub), name, tmp_path)
        return
    (found,) = await previewed(gguf_search(hub), name, tmp_path)
    assert (found.origin, found.size) == (f"hub:{repository}@main/{file}", len(FILES[file]))
    model = await to_transfer_thread(outlined_model, ModelName.parse(name), found)
    assert model is not None
    assert model.details.format == "gguf"


async def test_the_file_is_pulled_whole_and_keeps_the_name_that_was_typed(hub: HubServer, tmp_path: Path) -> None:
    hub.add("unsloth/Newone-2-3B-Instruct-GGUF", FILES)
    store, name = OllamaStore(tmp_path / "models"), ModelName.parse("newone2:3b")
    steps = [step.status async for step in store.pull(name, gguf_search(hub), None)]
    assert any(step.startswith("newone2:3b is unsloth/Newone-2-3B-Instruct-GGUF, Q4_K_M") for step in steps)
    model = await store.resolve(name)
    assert model is not None
    assert model.path.read_bytes() == GGUF


def test_a_machine_with_a_gpu_is_not_given_gguf_files_by_name(hub: HubServer) -> None:
    assert gguf_search(hub).provides(ModelName.parse("newone2:3b")) == "gguf:newone2@3b"
    assert gguf_search(hub, gpu=True).provides(ModelName.parse("newone2:3b")) is None
    assert gguf_search(hub).provides(ModelName.parse(REPO)) is None
