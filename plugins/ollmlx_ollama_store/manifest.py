"""Manifests and model configurations as Ollama writes them. Reading checks every field; nothing here opens a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ollmlx import parse_digest
from ollmlx.errors import InvalidRequest, StorageError

MAX_MANIFEST = 16 << 20  # a model of safetensors has a layer for each tensor
MAX_CONFIG = 4 << 20
MAX_LAYERS = 100_000
MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
IMAGE = "application/vnd.ollama.image."

Kind = Literal["model", "projector", "adapter", "template", "system", "params", "messages", "license", "draft"]


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
            raise StorageError(
                f"{shown} is damaged: {field + ': ' if field else ''}{fault['msg']}"[:300], code="MDL003"
            ) from None


class OllamaLayer(_Document):
    """A reference to a blob; `size` in bytes. `from_`: the name of the model that it was taken from."""

    media_type: str = Field("", alias="mediaType", max_length=200)
    digest: Digest
    size: Size
    from_: str = Field("", alias="from", max_length=1000)

    @property
    def kind(self) -> str:
        """`model`, `template` and so on; the whole media type if it is not one of Ollama's."""
        return self.media_type.removeprefix(IMAGE)

    def written(self) -> dict[str, Any]:
        """The layer as a manifest lists it."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


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
        """The layers of a kind."""
        return tuple(layer for layer in self.layers if layer.kind == kind)

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(layer.size for layer in self.blobs())


class OllamaConfig(_Document):
    """The configuration blob of a model."""

    model_format: str = Field("", max_length=64)
    model_family: str = Field("", max_length=64)
    model_families: tuple[str, ...] | None = Field(None, max_length=64)
    model_type: str = Field("", max_length=64)
    file_type: str = Field("", max_length=64)
    remote_host: str = Field("", max_length=500)
    remote_model: str = Field("", max_length=500)
    capabilities: tuple[str, ...] | None = Field(None, max_length=64)


def write_manifest(config: OllamaLayer, layers: Sequence[OllamaLayer]) -> bytes:
    """Return the bytes of a manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "config": config.written(),
        "layers": [layer.written() for layer in layers],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def write_config(facts: dict[str, Any], layers: Sequence[OllamaLayer]) -> bytes:
    """Return the bytes of a configuration: `facts`, such as `model_format`, and what container tools need."""
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    document = {**facts, "architecture": "amd64", "os": "linux", "rootfs": rootfs}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(data: bytes) -> str:
    """Return a digest: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
