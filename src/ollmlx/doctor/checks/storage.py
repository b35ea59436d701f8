"""Is there a models folder, room in it, and are the models whole?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ollmlx.doctor.world import World
from ollmlx.errors import OllmlxError
from ollmlx.findings import Finding, Severity
from ollmlx.names import ModelName
from ollmlx.quantities import format_size

LOW_SPACE = 5 * 1000**3
STAGING = ".staging"  # in the folder of MLX models: pulls that are not complete
MODELS = "mlx"


class FolderCheck:
    """The models folder itself."""

    name = "folder"
    group = "storage"
    codes = ("STO001", "STO002", "STO005", "STO006")

    async def run(self, world: World) -> Sequence[Finding]:
        return await asyncio.to_thread(self._look, world)

    def _look(self, world: World) -> list[Finding]:
        folder = world.settings.models_folder
        findings = []
        if not folder.exists():
            findings.append(
                Finding(
                    code="STO001",
                    severity=Severity.INFO,
                    title=f"{folder} does not exist yet; the first pull makes it",
                    commands=("ollmlx pull smollm2:135m",),
                )
            )
        elif not folder.is_dir() or not world.writable(folder):
            problem = "is not writable" if folder.is_dir() else "is not a folder"
            findings.append(
                Finding(
                    code="STO002",
                    severity=Severity.ERROR,
                    title=f"the models folder {folder} {problem}",
                    commands=(f"ls -ld {folder}",),
                )
            )
        free = world.free_disk(folder)
        if free is not None and free < LOW_SPACE:
            findings.append(
                Finding(
                    code="STO005",
                    severity=Severity.WARNING,
                    title=f"{format_size(free)} of disk space are left for models",
                    evidence=(str(folder),),
                    commands=("ollmlx list",),
                )
            )
        if (size := _size(folder / MODELS / STAGING)) > 0:
            findings.append(
                Finding(
                    code="STO006",
                    severity=Severity.INFO,
                    title=f"interrupted pulls hold {format_size(size)}; the next pull continues them",
                )
            )
        return findings


class ModelsCheck:
    """Every folder of models, asked for by name: what is damaged says so."""

    name = "models"
    group = "storage"
    codes = ("MDL003", "MDL004", "MDL005", "SEC005", "STO008")

    async def run(self, world: World) -> Sequence[Finding]:
        if world.plugins is None:
            return []
        registry = world.plugins.registry
        store = registry.stores.get(MODELS)
        folders = await asyncio.to_thread(_folders, world.settings.models_folder / MODELS)
        findings = []
        for folder in folders if store is not None else ():
            try:
                model = await store.resolve(ModelName.from_folder(folder.name))  # type: ignore[union-attr]
                if model is not None:
                    registry.backend_for(model)
            except OllmlxError as error:
                findings.append(_finding(folder, error))
        return findings


def _finding(folder: Path, error: OllmlxError) -> Finding:
    return Finding(
        code=error.code or "MDL003",
        severity=Severity.ERROR,
        title=error.message,
        evidence=(str(folder),),
        commands=(error.hint,) if error.hint else (f"ollmlx rm {folder.name}",),
        subject=folder.name,
    )


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
