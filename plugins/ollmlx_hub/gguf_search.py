"""The source "gguf": names of Ollama's library, looked up among the GGUF repositories of the hub.

It is asked on machines without a GPU for MLX, after Ollama's own registry, by the rule of `naming`: the file's
quantisation takes the place of the repository's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollmlx import ModelName, ThisMachine, closing
from ollmlx.errors import NotFound, UpstreamError
from ollmlx.storekit import download_client, to_transfer_thread
from ollmlx.types import PullCandidate, PullProgress
from ollmlx_hub.client import RemoteFile, RepositoryListing
from ollmlx_hub.naming import best
from ollmlx_hub.search import has_gpu, is_library_name
from ollmlx_hub.source import HubSource

PREFERRED: Final = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0")
"""The quantisations of a tag that names none: the first that a repository has."""
TRIED: Final = 3
"""Repositories of one organisation whose files are looked at."""
_QUANTISATION: Final = re.compile(r"(?:^|[-._])((?:I?Q\d\w*|MXFP4\w*|BF16|FP?16|F32))(?=[-.]|$)", re.IGNORECASE)
_PART: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_MAKER: Final = re.compile(r"^[A-Za-z0-9.-]+_(?=[A-Za-z])")
"""The maker that bartowski puts before the name: `Qwen_Qwen3-4B-GGUF`."""


@dataclass(frozen=True)
class GgufFile:
    """One file of a repository, and the quantisation that its name states."""

    listing: RepositoryListing
    file: RemoteFile
    quantisation: str

    @property
    def origin(self) -> str:
        return f"hub:{self.listing.repo}@main/{self.file.path}"


class GgufSearch:
    """Fetches a GGUF file for a name without an organisation. `organisations` are searched in order.

    `memory`: bytes that a model may use; None asks the machine.
    """

    name = "gguf"
    store = "mlx"

    def __init__(
        self, hub: HubSource, organisations: Sequence[str], *, gpu: bool | None = None, memory: int | None = None
    ) -> None:
        self._hub = hub
        self._organisations = organisations
        self._gpu = has_gpu() if gpu is None else gpu
        self._memory = memory

    def provides(self, name: ModelName) -> str | None:
        """`gguf:qwen3.5@4b` for a name without an organisation and without a host, where MLX has no GPU."""
        return f"gguf:{name.name}@{name.tag}" if is_library_name(name) and not self._gpu else None

    def format(self, name: ModelName) -> str:
        return "gguf"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Say which file the name stands for, and fetch it."""
        found = await to_transfer_thread(self._find, name)
        yield PullProgress(
            status=f"{name.short} is {found.listing.repo}, {found.quantisation} (same family and size, instruct before"
            " base, the newest)"
        )
        async with closing(self._hub.fetch_files(found.listing, [found.file], into, found.origin)) as steps:
            async for step in steps:
                yield step

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the file that a pull takes, with its header."""
        found = await to_transfer_thread(self._find, name)
        async with download_client(self._hub.private_hosts) as client:
            await self._hub.outline(client, found.listing, [found.file], into)
        path = into / found.file.path
        yield PullCandidate(origin=found.origin, format="gguf", size=found.file.size, path=path)

    def _find(self, name: ModelName) -> GgufFile:
        """Return the file of the first organisation that has one. Raises NotFound."""
        memory = int(ThisMachine().ram() * 0.6) if self._memory is None else self._memory
        for organisation in self._organisations:
            try:
                for repository in self._repositories(name, organisation, memory)[:TRIED]:
                    if (found := choose_file(self._hub.client.listing(repository, "main"), name)) is not None:
                        return found
            except UpstreamError as error:
                raise NotFound(f"{name.short} was not looked up: {error.message}", code="MDL002") from error
        where = ", ".join(self._organisations)
        raise NotFound(f"no GGUF repository of {where} is {name.short}", code="MDL002", hint="use hf.co/ORG/NAME")

    def _repositories(self, name: ModelName, organisation: str, memory: int) -> list[str]:
        """Return the repositories that a name may stand for, the best first, as if each had the wanted file only."""
        bits = re.search(r"\d+", _stated(name) or PREFERRED[0])
        assert bits is not None
        width = f"{bits[0]}bit" if len(bits[0]) == 1 else "bf16"
        named = {
            f"{organisation}/{_plain(repo)}-{width}": (repo, modified)
            for repo, modified in self._hub.client.search(organisation, name.name)
            if repo.lower().endswith("-gguf")
        }
        plain = ModelName.parse(f"{name.name}:{_without_quantisation(name.tag)}")
        ranked = best(plain, [(shown, modified) for shown, (_, modified) in named.items()], memory)
        return [named[each.repo][0] for each in ranked]


def _plain(repo: str) -> str:
    """Return the name of a repository without the maker, the ending and a quantisation: the files tell those."""
    return _QUANTISATION.sub("", _MAKER.sub("", repo.partition("/")[2][: -len("-gguf")]))


def choose_file(listing: RepositoryListing, name: ModelName) -> GgufFile | None:
    """Return the file of the quantisation that the tag states, or of the usual one. Projectors and parts are none."""
    found: dict[str, RemoteFile] = {}
    for file in listing.files:
        plain = "/" not in file.path and file.path.endswith(".gguf") and "mmproj" not in file.path.lower()
        stated = _QUANTISATION.findall(file.path.removesuffix(".gguf"))
        if plain and stated and not _PART.search(file.path) and file.sha256:
            found.setdefault(_canonical(stated[-1]), file)
    wanted = (_stated(name),) if _stated(name) else PREFERRED
    return next((GgufFile(listing, found[each], each) for each in wanted if each in found), None)


def _stated(name: ModelName) -> str:
    """Return the quantisation of a tag in llama.cpp's spelling; empty for none."""
    found = _QUANTISATION.findall(name.tag)
    return _canonical(found[-1]) if found else ""


def _canonical(quantisation: str) -> str:
    return (
        quantisation.upper().replace("FP", "F") if not quantisation.upper().startswith("MX") else quantisation.upper()
    )


def _without_quantisation(tag: str) -> str:
    return _QUANTISATION.sub("", tag) or "latest"
