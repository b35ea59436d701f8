"""Names of Ollama's library become repositories of the hub, by a rule."""

from __future__ import annotations

import pytest
from tests.servers.hub import HubServer
from tests.servers.serving import no_wait
from tests.servers.tiny import tiny_files
from tests.unit.plugins.hub.conftest import LOOPBACK
from tests.unit.plugins.hub.names_table import MEMORY, PAGE, chosen, names_of, table

from ollmlx import ModelName
from ollmlx.errors import NotFound
from ollmlx_hub.client import HubAccess
from ollmlx_hub.search import HubSearch
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore


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
