"""The folder of the store "mlx": a folder for each model, with a manifest in it.

    <models>/mlx/<folder>/            one installed model; `ollmlx.json` is its manifest
    <models>/mlx/.staging/ and so on  changes that are being prepared: see `ollmlx.storekit.StagingArea`

Names that begin with a dot are never models.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, ValidationError

from ollmlx import ModelName
from ollmlx.errors import StorageError
from ollmlx.storekit import FoundFile, StagingArea, list_files, read_bounded, read_json, storage_errors, write_whole
from ollmlx.types import FetchedFile, FetchReceipt, Frozen, ModelDefaults

MANIFEST = "ollmlx.json"
MAX_MANIFEST = 4 << 20
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".tiktoken", ".md")
TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt"})
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
"""A time with Python's own UTC zone. Pydantic's zone objects can crash Python at its end: they outlive their class
(pydantic issue 12867)."""


class MlxLayout:
    """The paths of one store. `root` is `<models>/mlx`. Links may lead anywhere inside `<models>`, and nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging = StagingArea(root)

    @property
    def bounds(self) -> Path:
        """The folder that no link of a model leads out of. A link in the place of `root` is the person's own."""
        return self.root if self.root.is_symlink() else self.root.parent

    def target(self, name: ModelName) -> Path:
        return self.root / name.folder

    def folders(self) -> list[Path]:
        """Every folder that may be a model. Raises StorageError if the store's folder cannot be read."""
        with storage_errors("cannot read the models folder"):
            try:
                with os.scandir(self.root) as entries:
                    found = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(folder for folder in found if _is_dir(folder))

    def find(self, name: ModelName) -> Path | None:
        """The folder of a name: the one spelled like it, else one that differs in letter case only."""
        exact = self.target(name)
        if _is_dir(exact):
            return exact
        return next((folder for folder in self.folders() if folder.name.lower() == name.key), None)

    def files(self, folder: Path) -> list[FoundFile]:
        """The files of a model, without the manifest. Raises StorageError for links that lead out of the folder."""
        return list_files(folder, self.bounds, omit=MANIFEST)


def nested_models(folder: Path) -> list[Path]:
    """Return the folders in a folder that are models of their own, as a hub's `ORG/NAME` is when it is copied whole."""
    found = []
    with suppress(OSError):
        for inner in sorted(folder.iterdir()):
            config = _is_dir(inner) and read_json(inner, "config.json", keys=("model_type",))
            if config and config.get("model_type") and any(inner.glob("*.safetensors")):
                found.append(inner)
    return found


def _is_dir(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises if the folder above cannot be read


class MlxManifest(Frozen):
    """The file `ollmlx.json`: a model's name, where it came from, and size and sha256 of every file.

    `base` is the name of the model that it was created over. `defaults` holds stated values only.
    """

    version: Literal[1] = 1
    name: ModelName
    source: str = "local"
    revision: str = ""
    license: str = ""
    created: Moment
    base: str = ""
    files: tuple[FetchedFile, ...] = ()
    defaults: ModelDefaults = ModelDefaults()

    def receipt(self) -> FetchReceipt:
        """The receipt that tells a source what is installed."""
        return FetchReceipt(source=self.source, revision=self.revision, license=self.license, files=self.files)

    def write(self, folder: Path) -> None:
        data = self.model_dump(mode="json", exclude={"defaults"})
        data["defaults"] = self.defaults.model_dump(mode="json", exclude_unset=True)
        write_whole(folder / MANIFEST, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def readable_manifest(folder: Path | None) -> MlxManifest | None:
    """Return the manifest of a folder, or None if there is none that can be read."""
    with suppress(StorageError):
        return read_manifest(folder) if folder is not None else None
    return None


def read_manifest(folder: Path) -> MlxManifest | None:
    """Return the manifest of a folder, or None if it has none: it was copied by hand. Raises StorageError."""
    data = read_bounded(folder / MANIFEST, MAX_MANIFEST, f"{folder.name}/{MANIFEST}")
    if data is None:
        return None
    try:
        return MlxManifest.model_validate_json(data)
    except ValidationError as error:
        newer = [each["input"] for each in error.errors() if each["loc"] == ("version",)]
        if newer and isinstance(newer[0], int):
            raise StorageError(
                f"{folder.name}/{MANIFEST} was written by a newer ollmlx: its format is {newer[0]}, this one reads 1",
                code="MDL003",
                hint="ollmlx upgrade",
            ) from error
        raise StorageError(
            f"{folder.name}/{MANIFEST} is damaged: {error.errors()[0]['msg']}",
            code="MDL003",
            hint="remove this file if you copied the folder by hand, else pull the model again",
        ) from error
