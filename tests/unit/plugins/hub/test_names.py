"""Names of Ollama's library become repositories of the hub, by a rule."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import tiny_gguf
from tests.servers.serving import no_wait
from tests.servers.tiny import tiny_files
from tests.unit.plugins.hub.conftest import LOOPBACK, REPO, Pull, found
from tests.unit.plugins.hub.names_table import MEMORY, PAGE, chosen, names_of, table

from ollmlx import ModelName
from ollmlx.errors import NotFound, OllmlxError
from ollmlx.storekit import to_transfer_thread
from ollmlx.storekit.outline import outlined_model
from ollmlx.types import PullCandidate
from ollmlx_hub.client import HubAccess
from ollmlx_hub.search import GgufSearch, HubSearch
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore
from ollmlx_ollama_store.store import OllamaStore


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("qwen3.5:4b", "Qwen3.5-4B-4bit"),
        ("qwen3.5:4b-q8_0", "Qwen3.5-4B-8bit"),
        ("qwen3.5:4b-bf16", "Qwen3.5-4B-bf16"),
        ("qwen3.5:4b-fp16", "Qwen3.5-4B-bf16"),
        ("gemma4:e4b", "gemma-4-e4b-it-4bit"),
        ("gemma4:e4b-nvfp4", "gemma-4-e4b-it-nvfp4"),
        ("llama3.1:8b-instruct-q8_0", "Meta-Llama-3.1-8B-Instruct-8bit"),
        ("llama3.1:8b-text-bf16", "Meta-Llama-3.1-8B-bf16"),
        ("phi3:mini", "Phi-3-mini-4k-instruct-4bit"),
        ("qwen3:4b-thinking", "Qwen3-4B-Thinking-2507-4bit"),
        ("mixtral:8x7b", "Mixtral-8x7B-Instruct-v0.1-4bit"),
        ("qwen3:7b", None),
        ("nothing-like-it", None),
        ("llama3.1:8b-q3_K_M", None),
    ],
)
def test_a_name_stands_for_its_family_and_size_and_what_its_tag_says(name: str, repository: str | None) -> None:
    assert chosen(name) == (repository and f"mlx-community/{repository}")


def test_without_a_size_it_is_the_largest_usual_one_that_fits() -> None:
    assert chosen("qwen3.5") == "mlx-community/Qwen3.5-9B-4bit"
    assert chosen("qwen3.5", memory=4 << 30) == "mlx-community/Qwen3.5-4B-4bit"
    assert chosen("qwen3.5", memory=1) == "mlx-community/Qwen3.5-0.8B-4bit"


async def test_the_table_of_the_page_is_what_the_catalogue_and_the_rule_say() -> None:
    page = PAGE.read_text("utf-8")
    assert len(names_of(page)) >= 60
    assert await table(page) == page, "run: python -m tests.unit.plugins.hub.names_table"


def search(hub: HubServer, *, has_gpu: bool = True) -> HubSearch:
    source = HubSource(HubAccess(hub.url, None), private_hosts=LOOPBACK, sleep=no_wait)
    return HubSearch(source, ("mlx-community", "other"), gpu=has_gpu, memory=MEMORY)


async def test_a_pull_says_what_the_name_stands_for_and_remembers_it(hub: HubServer, store: MlxStore) -> None:
    hub.add("mlx-community/Newone-2-3B-Instruct-4bit", tiny_files())
    hub.add("mlx-community/Newone-2-3B-Instruct-8bit", tiny_files())
    name = ModelName.parse("newone2:3b")
    steps = [step.status async for step in store.pull(name, search(hub), None)]
    assert any(step.startswith("newone2:3b is mlx-community/Newone-2-3B-Instruct-4bit (same family") for step in steps)
    assert any("next: mlx-community/Newone-2-3B-Instruct-8bit" in step for step in steps)
    model = await store.resolve(name)
    assert model is not None
    assert model.source == "hub:mlx-community/Newone-2-3B-Instruct-4bit@main"


async def test_the_next_organisation_is_searched_and_a_name_of_none_is_refused(hub: HubServer, store: MlxStore) -> None:
    hub.add("other/Rare-1B-4bit", tiny_files())
    assert [step async for step in store.pull(ModelName.parse("rare"), search(hub), None)][-1].status == "success"
    with pytest.raises(NotFound, match="no repository of mlx-community, other is unheard:1b"):
        async for _ in store.pull(ModelName.parse("unheard:1b"), search(hub), None):
            pass


@pytest.mark.parametrize(
    ("name", "provided"),
    [
        ("newone2:3b", "search:newone2@3b"),
        ("llama3.2", None),  # the catalogue's
        ("org/name", None),
        ("registry.ollama.ai/library/newone2", None),
        ("localhost:5000/me/model", None),
    ],
)
def test_only_names_without_an_organisation_are_searched(hub: HubServer, name: str, provided: str | None) -> None:
    assert search(hub).provides(ModelName.parse(name)) == provided
    assert search(hub, has_gpu=False).provides(ModelName.parse(name)) is None


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


WHISPER = "Systran/faster-whisper-tiny"
NETWORK = b"WhisperSpec\0"
WEIGHTS = struct.pack("<IH", 6, len(NETWORK)) + NETWORK + bytes(5000)
CONFIG = b'{"alignment_heads": []}'


def tokens(count: int) -> dict[str, bytes]:
    words = [f"w{number}" for number in range(count)]
    return {"vocabulary.txt": ("\n".join(words) + "\n").encode()}


@pytest.mark.parametrize(
    ("vocabulary", "languages"),
    [
        (tokens(51_864), "en"),
        (tokens(51_865), "many"),
        ({"vocabulary.json": json.dumps([str(number) for number in range(51_866)]).encode()}, "many"),
    ],
)
async def test_it_is_pulled_whole_and_listed_as_a_model_that_hears(
    hub: HubServer, store: MlxStore, pull: Pull, vocabulary: dict[str, bytes], languages: str
) -> None:
    files = {"model.bin": WEIGHTS, "config.json": CONFIG, "tokenizer.json": b"{}", **vocabulary}
    hub.add(WHISPER, {**files, "README.md": b"# hello"})
    await pull(WHISPER)
    model = await found(store, WHISPER)
    assert {path.name for path in model.path.iterdir()} == {*files, "ollmlx.json"}
    assert (model.format, model.details.family, model.capabilities) == ("ctranslate2", "whisper", ("transcription",))
    assert model.info["whisper.languages"] == languages


async def test_a_pickle_of_that_name_is_not_installed(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    files = {"model.bin": b"\x80\x04pickle", "config.json": CONFIG, "tokenizer.json": b"{}", **tokens(9)}
    hub.add(WHISPER, files)
    with pytest.raises(OllmlxError):
        await pull(WHISPER)
    assert await store.list() == []
