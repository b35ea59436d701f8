"""`python -m tests.unit.plugins.hub.names_table`: writes the table of docs/names.md anew.

Names stand for repositories by the catalogue, and by the rule over the listings of `listing`.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

from huggingface_hub import close_session
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import tiny_gguf
from tests.servers.serving import no_wait
from tests.unit.plugins.hub.listing import GGUF_LISTING, LISTING

from ollmlx import ModelName, load_catalogue
from ollmlx.errors import NotFound
from ollmlx_hub.client import HubAccess
from ollmlx_hub.naming import best
from ollmlx_hub.search import GgufSearch
from ollmlx_hub.source import HubSource

PAGE = Path(__file__).parents[4] / "docs/names.md"
MEMORY = 64 << 30
HEAD = "| name | where MLX has a GPU | by | on a CPU |\n|---|---|---|---|\n"
QUANTISATIONS = ("Q4_K_M", "Q8_0", "BF16")


def chosen(name: str, memory: int = MEMORY) -> str | None:
    """The repository of mlx-community that a name stands for, by the rule."""
    repositories = [(f"mlx-community/{repo}", float(age)) for age, repo in enumerate(LISTING)]
    found = best(ModelName.parse(name), repositories, memory)
    return found[0].repo if found else None


def names_of(page: str) -> list[str]:
    """The names in the table of the page."""
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


async def rows(names: list[str]) -> list[str]:
    with HubServer() as hub:
        for organisation, repositories in GGUF_LISTING.items():
            for repo in repositories:
                stated = re.search(r"-(Q8_0)-GGUF$", repo)
                stem = repo.removesuffix("-GGUF").removesuffix("-Q8_0")
                kinds = (stated[1],) if stated else QUANTISATIONS
                hub.add(f"{organisation}/{repo}", {f"{stem}-{kind}.gguf": tiny_gguf() for kind in kinds})
        source = HubSource(HubAccess(hub.url, None), private_hosts=("127.0.0.1", "localhost"), sleep=no_wait)
        search = GgufSearch(source, tuple(GGUF_LISTING), gpu=False, memory=MEMORY)
        found = [await _row(name, search) for name in names]
        close_session()
        return found


async def _row(name: str, search: GgufSearch) -> str:
    known = load_catalogue().get(name)
    on_gpu = known or chosen(name)
    own = known is not None and not known.startswith("mlx-community/")
    on_cpu = f"`{known}`" if own else await _gguf(name, search)
    return f"| `{name}` | `{on_gpu}` | {'catalogue' if known else 'search'} | {on_cpu} |\n"


async def _gguf(name: str, search: GgufSearch) -> str:
    with tempfile.TemporaryDirectory() as into:
        try:
            found = [each async for each in search.preview(ModelName.parse(name), Path(into))]
        except NotFound:
            return "-"
    repo, _, file = found[0].origin.removeprefix("hub:").partition("@main/")
    return f"`{repo}`, {file.removesuffix('.gguf').rpartition('-')[2]}"


async def table(page: str) -> str:
    """The page with its table as the rule makes it."""
    start = page.index(HEAD) + len(HEAD)
    return page[:start] + "".join(await rows(names_of(page)))


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(table(PAGE.read_text("utf-8"))), "utf-8")
