"""Finds the repository of a name of Ollama's library: by its name for MLX, by the names of files for GGUF."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollmlx import ModelName, ThisMachine, closing, load_catalogue
from ollmlx.errors import NotFound, UpstreamError
from ollmlx.storekit import download_client, to_transfer_thread
from ollmlx.types import PullCandidate, PullProgress
from ollmlx_hub.client import RemoteFile, RepositoryListing
from ollmlx_hub.naming import NamedRepository, best
from ollmlx_hub.source import HubSource

SHOWN: Final = 4
"""Candidates that a pull tells, the chosen one first."""


class LibrarySearch:
    """Searches `organisations`, in order. `memory`: bytes that a model may use; None asks the machine."""

    store = "mlx"

    def __init__(
        self, hub: HubSource, organisations: Sequence[str], *, gpu: bool | None = None, memory: int | None = None
    ) -> None:
        self._hub = hub
        self._organisations = organisations
        self._gpu = has_gpu() if gpu is None else gpu
        self._memory = memory


class HubSearch(LibrarySearch):
    """Fetches, for a name without an organisation, the repository that the rule of `naming` finds."""

    name = "search"

    def provides(self, name: ModelName) -> str | None:
        """`search:qwen3.5@4b` for a name without an organisation and without a host, where MLX has a GPU."""
        if not (self._gpu and is_library_name(name)) or any(ModelName.parse(each) == name for each in load_catalogue()):
            return None
        return f"search:{name.name}@{name.tag}"

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Say which repository the name stands for, and why, and fetch it."""
        found = await to_transfer_thread(self._candidates, name)
        others = ", ".join(each.repo for each in found[1:SHOWN]) or "none"
        yield PullProgress(
            status=f"{name.short} is {found[0].repo} (same family and size, instruct before base, 4 bits before 8, the"
            f" newest; next: {others})"
        )
        async with closing(self._hub.fetch(ModelName.parse(found[0].repo), into, insecure=insecure)) as steps:
            async for step in steps:
                yield step

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the repositories that the name may stand for, the one that a pull takes first."""
        for number, each in enumerate((await to_transfer_thread(self._candidates, name))[:SHOWN]):
            async with closing(self._hub.preview(ModelName.parse(each.repo), into / str(number))) as found:
                async for candidate in found:
                    yield candidate

    def _candidates(self, name: ModelName) -> list[NamedRepository]:
        memory = int(ThisMachine().ram() * 0.6) if self._memory is None else self._memory
        for organisation in self._organisations:
            try:
                listed = self._hub.client.search(organisation, name.name)
            except UpstreamError as error:  # the next source may have the model
                raise NotFound(f"{name.short} was not looked up: {error.message}", code="MDL002") from error
            if found := best(name, listed, memory):
                return found
        where = ", ".join(self._organisations)
        raise NotFound(f"no repository of {where} is {name.short}", code="MDL002", hint="use ORG/NAME")


def is_library_name(name: ModelName) -> bool:
    """Return True for a name without organisation, host and hub: one of Ollama's library."""
    return name.repo_id is None and name.host is None and name.via is None


def has_gpu() -> bool:
    """Return True on a machine with a GPU for MLX."""
    return sys.platform == "darwin" or Path("/dev/nvidiactl").exists()


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


class GgufSearch(LibrarySearch):
    """Fetches a GGUF file for a name without an organisation."""

    name = "gguf"

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
