"""Is every installed model whole, and can it be run?"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx.doctor.check import check, found
from ollmlx.doctor.world import World
from ollmlx.errors import OllmlxError
from ollmlx.findings import Finding, Severity
from ollmlx.names import ModelName

if TYPE_CHECKING:
    from ollmlx.contracts import Store
    from ollmlx.registry import Registry

STORE = "mlx"
MANIFEST = "ollmlx.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt")


@check(
    "models", "storage", "MDL001", "MDL003", "MDL004", "MDL005", "MDL007", "MDL009", "SEC005", "STO007", "STO008",
    "ENV001",
)  # fmt: skip
async def installed(world: World) -> list[Finding]:
    """Every folder of models, asked for by name: what is damaged says so."""
    if world.plugins is None or (store := world.plugins.registry.stores.get(STORE)) is None:
        return []
    findings: list[Finding] = []
    claimed: dict[str, str] = {}
    for folder in await asyncio.to_thread(_folders, world.settings.models_folder / STORE):
        findings += await _folder(world.plugins.registry, store, folder)
        findings += _claims(folder, claimed)
    return findings


async def _folder(registry: Registry, store: Store, folder: Path) -> list[Finding]:
    try:
        model = await store.resolve(ModelName.from_folder(folder.name))
        if model is None:
            return []
        registry.backend_for(model)
    except OllmlxError as error:
        hint = (error.hint,) if error.hint else (f"ollmlx rm {folder.name}",)
        severity = Severity.WARNING if error.code in ("MDL004", "MDL005", "SEC005") else Severity.ERROR
        told = found(
            error.code or "MDL003", error.message, evidence=(str(folder),), commands=hint, subject=folder.name,
            severity=severity,
        )  # fmt: skip
        return [told]
    if model.format == "mlx" and not any((folder / name).exists() for name in TOKENIZERS):
        again = f"ollmlx pull {model.name.short}"
        return [found("MDL009", f"{model.name.short} has no tokenizer", evidence=(str(folder),), commands=(again,))]
    return []


def _claims(folder: Path, claimed: dict[str, str]) -> list[Finding]:
    """Whether the folder is called as its manifest says, and no other folder holds the same model."""
    name = _claimed_name(folder)
    if name is None:
        return []
    if name.key in claimed:
        both = f"{claimed[name.key]} and {folder.name} both hold {name.short}"
        return [found("STO008", both, evidence=(str(folder),), commands=(f"mv {folder} {folder}.old",))]
    claimed[name.key] = folder.name
    if folder.name.lower() != name.key:
        told = f"the folder {folder.name} holds {name.short}"
        return [
            found("STO007", told, evidence=(str(folder),), commands=(f"mv {folder} {folder.parent / name.folder}",))
        ]
    return []


def _claimed_name(folder: Path) -> ModelName | None:
    try:
        return ModelName.parse(str(_manifest(folder)["name"]))
    except (OSError, ValueError, KeyError, TypeError, OllmlxError):  # damaged: the store says so
        return None


def _manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return read


@check("contents", "storage", "MDL008")
def contents(world: World) -> list[Finding]:
    """With `--deep`: every file's sha256 against its manifest."""
    return [
        found("MDL008", f"{folder.name}: {path} is not what was installed", evidence=(str(folder / path),),
              commands=(f"ollmlx rm {folder.name}", f"ollmlx pull {folder.name}"), subject=folder.name)
        for folder in (_folders(world.settings.models_folder / STORE) if world.deep else [])
        for path in _changed(folder)
    ]  # fmt: skip


def _changed(folder: Path) -> list[str]:
    try:
        listed = [(str(file["path"]), str(file["sha256"])) for file in _manifest(folder)["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path for path, digest in listed if (folder / path).is_file() and _sha256(folder / path) != digest]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
