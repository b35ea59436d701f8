"""Installing MLX models: a folder is prepared in the staging area, verified, and renamed into place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import InvalidRequest
from ollmlx.storekit import link_or_copy, safe_path, speech_weights, storage_errors, with_hashes, write_receipt
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel, ModelDefaults
from ollmlx_hub.index import MlxIndex
from ollmlx_hub.layout import MODEL_SUFFIXES, MlxManifest, read_manifest, readable_manifest

PARTS = ".parts"
"""The folder in a staging folder in which files arrive."""
ADAPTER = "adapter"
"""The folder of an adapter in a model's folder."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz", ".npy")


class MlxInstaller:
    """Prepares and installs folders. Call its methods in a thread, under the model's lock."""

    def __init__(self, index: MlxIndex) -> None:
        self.index = index
        self.layout = index.layout
        self.staging = index.layout.staging

    def stage_pull(self, name: ModelName, *, reuse: bool) -> Path:
        """Return the folder that a source fetches into, with the files of an earlier try.

        With `reuse`, installed files are linked into it, so that the source need not fetch them again.
        """
        stage = self.staging.folder(name)
        with storage_errors("cannot prepare a pull"):
            stage.mkdir(parents=True, exist_ok=True)
            self.staging.recover(self.layout.target(name))
            (stage / INSTALLED).unlink(missing_ok=True)
            folder = self.layout.find(name)
            manifest = readable_manifest(folder)
            if folder is not None and manifest is not None:
                write_receipt(stage / INSTALLED, manifest.receipt())
                for file in manifest.files if reuse else ():
                    if (folder / file.path).is_file() and not (stage / file.path).exists():
                        link_or_copy(folder / file.path, stage / file.path)
        return stage

    def stage_new(self, name: ModelName, suffix: str) -> Path:
        """Return an empty folder for a model that is created or imported."""
        stage = self.staging.folder(name)
        folder = stage.with_name(stage.name + suffix)
        with storage_errors("cannot prepare a model"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.staging.recover(self.layout.target(name))
        return folder

    def up_to_date(self, name: ModelName, receipt: FetchReceipt) -> bool:
        """Return True if the fetched revision is installed and complete."""
        manifest = readable_manifest(self.layout.find(name))
        if manifest is None or not receipt.revision:
            return False
        if (manifest.source, manifest.revision) != (receipt.source, receipt.revision):
            return False
        try:
            return self.index.find(name) is not None
        except OllmlxError:
            return False

    def finish(
        self,
        folder: Path,
        name: ModelName,
        receipt: FetchReceipt,
        defaults: ModelDefaults | None = None,
        base: str = "",
    ) -> None:
        """Verify a staged folder, write its manifest and rename it into place. Raises StorageError."""
        with storage_errors("cannot store the model"):
            for own in (RECEIPT, INSTALLED):
                (folder / own).unlink(missing_ok=True)
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            manifest = MlxManifest(
                name=name,
                source=receipt.source,
                revision=receipt.revision,
                license=receipt.license,
                created=datetime.now(UTC),
                base=base,
                files=with_hashes(folder, self.layout.files(folder), receipt.files),
                defaults=defaults or ModelDefaults(),
            )
            manifest.write(folder)
            self.index.read_model(folder, manifest)
            self.staging.swap_in(folder, self.layout.find(name) or self.layout.target(name))

    def link_model(self, model: InstalledModel, into: Path) -> tuple[FetchedFile, ...]:
        """Link every file of an installed model into a folder. Returns the hashes that are known."""
        with storage_errors("cannot link the model's files"):
            for file in self.layout.files(model.path):
                link_or_copy(model.path / file.path, into / file.path)
            manifest = read_manifest(model.path)
            return manifest.files if manifest is not None else ()


# -- models that are created -----------------------------------------------------------------------------------------


def file_format(files: Mapping[str, Path]) -> str:
    """Return `gguf`, or `mlx` for what is kept: safetensors, speech models. Raises InvalidRequest for other files."""
    if speech_weights(files):
        return "mlx"
    for name in files:
        if name.lower().endswith(_PICKLES):
            raise InvalidRequest(
                f"{name}: weights in Python's pickle format are never read", hint="convert them to safetensors"
            )
    ggufs = sum(name.lower().endswith(".gguf") for name in files)
    if ggufs > 1:
        raise InvalidRequest("more than one GGUF file: split models are not supported", hint="merge them first")
    if ggufs:
        return "gguf"
    if not any(name.endswith(".safetensors") for name in files):
        hint = (
            "a voice of Piper has NAME.onnx.json beside NAME.onnx"
            if any(name.endswith(".onnx") for name in files)
            else None
        )
        raise InvalidRequest("no safetensors or GGUF file among the files", hint=hint)
    if "config.json" not in files:
        raise InvalidRequest("config.json is missing among the files")
    return "mlx"


def link_files(files: Mapping[str, Path], into: Path) -> None:
    """Link files under their names into a folder. Raises InvalidRequest for a name that is no plain relative path."""
    into.mkdir(parents=True, exist_ok=True)
    speech = speech_weights(files)
    for name, source in files.items():
        license = name.upper().startswith(("LICENSE", "LICENCE"))
        if not license and name not in speech and not name.lower().endswith((*MODEL_SUFFIXES, ".gguf")):
            raise InvalidRequest(f"{name[:120]!r}: files of this kind do not belong to a model")
        link_or_copy(source, into / safe_path(name))


def add_adapter(defaults: ModelDefaults, folder: Path) -> ModelDefaults:
    """Link an adapter's files into a model's folder. The returned defaults name it relative to the folder."""
    if defaults.adapter is None:
        return defaults
    source = defaults.adapter
    if source.is_dir():
        names = ("adapter_config.json", "adapters.safetensors", "adapter_model.safetensors")
        found = [source / name for name in names if (source / name).is_file()]
    else:
        found = [source] if source.is_file() and source.suffix == ".safetensors" else []
    if any(source.glob("*.gguf")) or source.suffix == ".gguf":
        raise InvalidRequest(
            "this adapter is a GGUF file: llama.cpp takes it, and MLX does not",
            code="MDL007",
            hint="use the adapter's safetensors, or a GGUF model: ollmlx create --backend llamacpp",
        )
    if not any(file.suffix == ".safetensors" for file in found):
        raise InvalidRequest("this is not a LoRA adapter: adapters.safetensors is missing", code="MDL007")
    for file in found:
        link_or_copy(file, folder / ADAPTER / file.name)
    return defaults.model_copy(update={"adapter": Path(ADAPTER)})
