"""The files of Ollama's models folder: paths, made of checked names and digests, and manifests as Ollama writes them.

    <models>/manifests/<host>/<namespace>/<model>/<tag>   the manifest of a model: its configuration and its layers
    <models>/blobs/sha256-<64 hex>                        a layer, named by its content
    <models>/.ollmlx/                                     ollmlx's own staging folders and locks, made on demand

`<models>`, `manifests` and `blobs` may themselves be links, to another disk for example. Below them a link may lead
anywhere inside these three folders, and nowhere else.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ollmlx import ModelName, OllmlxError, parse_digest
from ollmlx.errors import InvalidRequest, NotFound
from ollmlx.storekit import damaged, read_bounded, require_inside
from ollmlx.types import InstalledModel

SOURCE = "ollama:"
"""The beginning of a model's `source`; the manifest's full name follows."""
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
OWN = ".ollmlx"
HUBS = ("hf.co", "huggingface.co")
MAX_MANIFEST = 4 << 20  # a model of safetensors has a layer for each tensor
MAX_CONFIG = 1 << 20
MAX_LAYERS = 100_000
MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
IMAGE = "application/vnd.ollama.image."
_PLAIN_HOSTS = (DEFAULT_HOST, "ollama.com", *HUBS)
"""Hosts that are not part of a model's name. Of two manifests with one name, the host listed first wins."""


@dataclass(frozen=True)
class ManifestEntry:
    """A manifest file and the model name of its path."""

    name: ModelName
    path: Path

    @property
    def full_name(self) -> str:
        """`host/namespace/model:tag`."""
        host, namespace, model, tag = self.path.parts[-4:]
        return f"{host}/{namespace}/{model}:{tag}"


@dataclass(frozen=True)
class ManifestListing:
    """The files below `manifests`, and each folder that could not be listed: it may hold more of them."""

    files: list[Path]
    unlisted: dict[Path, OSError]


class OllamaLayout:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = root / "manifests"
        self.blobs = root / "blobs"
        self._own = root / OWN

    def blob(self, digest: str) -> Path:
        """The path of a layer. Raises InvalidRequest for anything but a sha256 digest."""
        return self.blobs / f"sha256-{parse_digest(digest)}"

    def staging(self, name: ModelName) -> Path:
        return self._own / "staging" / name.key

    def lock(self, name: ModelName) -> Path:
        return self._own / "locks" / f"{name.key}.lock"

    def upload_note(self, host: str, digest: str) -> Path:
        """The file that keeps the address of an upload to a registry."""
        return self._own / "uploads" / f"{host.replace(':', '+')}-{self.blob(digest).name}"

    @property
    def store_lock(self) -> Path:
        """The lock file for changes of manifests. Unused layers are found by reading all manifests."""
        return self._own / "locks" / ".store.lock"

    def target(self, name: ModelName) -> Path:
        """The path that Ollama would give a name's manifest."""
        host = name.host or (name.via if name.via in HUBS else None) or DEFAULT_HOST
        return self.manifests / host / (name.org or DEFAULT_NAMESPACE) / name.name / name.tag

    def entries(self) -> list[ManifestEntry]:
        """Every manifest whose path is a model name. Of two with the same name, the one that wins comes first."""
        return self.named(self.listing())

    def named(self, listing: ManifestListing) -> list[ManifestEntry]:
        return [entry for entry in map(self._entry, listing.files) if entry is not None]

    def listing(self) -> ManifestListing:
        """List the manifests, and the folders whose manifests cannot be listed. Names that begin with a dot are not."""
        folders, unlisted = [self.manifests], dict[Path, OSError]()
        for _ in range(4):
            found: list[Path] = []
            for folder in folders:
                try:
                    with os.scandir(folder) as entries:
                        found += [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
                except NotADirectoryError:  # a file that lies among the folders
                    continue
                except OSError as error:
                    gone = isinstance(error, FileNotFoundError) and not os.path.lexists(folder)
                    if folder == self.manifests or not gone:  # another folder may have been removed just now
                        unlisted[folder] = error
            folders = found
        files = [path for path in folders if not os.path.isdir(path)]  # noqa: PTH112 - Path.is_dir raises for some errors
        return ManifestListing(sorted(files, key=_precedence), unlisted)

    def find(self, name: ModelName) -> ManifestEntry | None:
        """The manifest of a name: the one at its own path, else the first one whose name is equal."""
        exact = self.target(name)
        if os.path.isfile(exact) and (entry := self._entry(exact)) is not None and entry.name == name:  # noqa: PTH113
            return entry
        same = [entry for entry in self.entries() if entry.name == name]
        return next((entry for entry in same if entry.name.same_spelling(name)), same[0] if same else None)

    def origin(self, model: InstalledModel) -> ManifestEntry:
        """The manifest that a model was read from, also if the model has an alias. Raises NotFound if it is gone."""
        name = ModelName.parse(model.source.removeprefix(SOURCE)) if model.source.startswith(SOURCE) else model.name
        if (entry := self.find(name)) is None:
            raise NotFound(f"model '{model.name.short}' not found", code="MDL002")
        return entry

    def status(self, path: Path) -> os.stat_result:
        """The status of a regular file. Raises StorageError if it is missing, or a link leads out of the folder."""
        shown = path.relative_to(self.root)
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise damaged(f"{shown} is missing") from error
        except OSError as error:
            raise damaged(f"{shown}: {error.strerror}") from error
        require_inside(path, str(shown), self.root, self.manifests, self.blobs)
        if not stat.S_ISREG(found.st_mode):
            raise damaged(f"{shown} is not a regular file")
        return found

    def read(self, path: Path, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises StorageError."""
        self.status(path)
        return read_bounded(path, limit, str(path.relative_to(self.root))) or b""

    def manifest(self, path: Path) -> tuple[OllamaManifest, bytes]:
        data = self.read(path, MAX_MANIFEST)
        return OllamaManifest.parse(data, str(path.relative_to(self.root))), data

    def remove_empty(self, folder: Path) -> None:
        """Remove a folder and those above it, up to `manifests`, as long as they are empty."""
        with suppress(OSError):  # a folder is not empty, or another process removed it
            while folder != self.manifests:
                folder.rmdir()
                folder = folder.parent

    def _entry(self, path: Path) -> ManifestEntry | None:
        name = _named("{}/{}/{}:{}".format(*path.parts[-4:]))
        return ManifestEntry(name, path) if name is not None else None


@lru_cache(maxsize=1 << 15)
def _named(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except OllmlxError:
        return None


def _precedence(path: Path) -> tuple[int, Path]:
    host = path.parts[-4]
    return _PLAIN_HOSTS.index(host) if host in _PLAIN_HOSTS else len(_PLAIN_HOSTS), path


# -- manifests -------------------------------------------------------------------------------------------------------

STATED = "Modelfile"
"""The origin of a template layer that a Modelfile states: it is used instead of the template of the weights."""
Kind = Literal[
    "model", "projector", "adapter", "template", "system", "params", "messages", "license", "draft", "tensor", "json",
]  # fmt: skip


def _checked(text: str) -> str:
    try:
        return f"sha256:{parse_digest(text)}"
    except InvalidRequest as error:
        raise ValueError(error.message) from error


Digest = Annotated[str, AfterValidator(_checked)]
Size = Annotated[int, Field(ge=0, lt=1 << 60)]


class _Document(BaseModel):
    """A document that another program wrote. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, protected_namespaces=())

    @classmethod
    def parse(cls, data: bytes, shown: str) -> Self:
        """Parse a document; `shown` names it in errors. Raises StorageError for anything else, such as a web page."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"]))
            raise damaged(f"{shown} is damaged: {field + ': ' if field else ''}{fault['msg']}"[:300]) from None


class OllamaLayer(_Document):
    """A reference to a blob; `size` in bytes.

    `from_`: the name of the model that it was taken from; `name`: that of the tensor or JSON file that it is.
    """

    media_type: str = Field("", alias="mediaType", max_length=200)
    digest: Digest
    size: Size
    from_: str = Field("", alias="from", max_length=1000)
    name: str = Field("", max_length=1000)

    @property
    def kind(self) -> str:
        """`model`, `template` and so on; the whole media type if it is not one of Ollama's."""
        return self.media_type.removeprefix(IMAGE)


class OllamaManifest(_Document):
    """A file below `manifests/`: a configuration and layers."""

    schema_version: Literal[2] = Field(2, alias="schemaVersion")
    config: OllamaLayer
    layers: tuple[OllamaLayer, ...] = Field(max_length=MAX_LAYERS)

    def blobs(self) -> Iterator[OllamaLayer]:
        """Every blob of the model, the configuration first."""
        yield self.config
        yield from self.layers

    def of(self, kind: Kind) -> tuple[OllamaLayer, ...]:
        return tuple(layer for layer in self.layers if layer.kind == kind)


class OllamaConfig(_Document):
    model_format: str = Field("", max_length=64)
    model_family: str = Field("", max_length=64)
    model_families: tuple[str, ...] | None = Field(None, max_length=64)
    model_type: str = Field("", max_length=64)
    file_type: str = Field("", max_length=64)
    remote_host: str = Field("", max_length=500)
    remote_model: str = Field("", max_length=500)
    capabilities: tuple[str, ...] | None = Field(None, max_length=64)
    renderer: str = Field("", max_length=64)


def write_manifest(config: OllamaLayer, layers: Sequence[OllamaLayer]) -> bytes:
    config_entry, *entries = [each.model_dump(by_alias=True, exclude_defaults=True) for each in (config, *layers)]
    return as_json({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": config_entry, "layers": entries})


def as_json(value: object) -> bytes:
    """Return a value as JSON without spaces, as Ollama writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
