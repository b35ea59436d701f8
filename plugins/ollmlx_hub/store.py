"""The store "mlx": a folder for each model, as mlx-lm reads and writes them, with a manifest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ollmlx import Importer, ModelName, OllmlxError, Source, check_template, closing, quantization_of
from ollmlx.errors import Conflict, InvalidRequest, NotFound, Unsupported
from ollmlx.storekit import (
    PIPER,
    WHISPER,
    discard,
    locked,
    merged_defaults,
    only_file,
    read_json,
    read_receipt,
    speech_weights,
    storage_errors,
    to_transfer_thread,
)
from ollmlx.types import RECEIPT, CreateRequest, FetchReceipt, InstalledModel, PullProgress
from ollmlx_hub.index import MlxIndex
from ollmlx_hub.installer import MlxInstaller, add_adapter, file_format, link_files
from ollmlx_hub.layout import MlxLayout, nested_models

FORMAT = "mlx"
KEPT = (FORMAT, WHISPER, PIPER)
"""Formats of folders that are kept as they are."""


class MlxStore:
    """Models in `<models>/mlx/`. Several daemons may share the folder: a change holds the model's lock file."""

    name = "mlx"

    def __init__(self, root: Path) -> None:
        self.layout = MlxLayout(root)
        self.index = MlxIndex(self.layout, self.name)
        self.installer = MlxInstaller(self.index)

    async def list(self) -> Sequence[InstalledModel]:
        """List every complete model. Damaged models and interrupted pulls are not listed."""
        with storage_errors("cannot read the models folder"):
            return await asyncio.to_thread(self.index.models)

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """Return the model of a name, or None.

        Raises StorageError if its folder is damaged, Conflict if the folder holds another model.
        """
        with storage_errors("cannot read the models folder"):
            found = await asyncio.to_thread(self.index.find, name)
            staging, target = self.layout.staging, self.layout.target(name)
            if found is None and await to_transfer_thread(staging.is_interrupted, target):
                async with locked(staging.lock(name)):
                    await to_transfer_thread(staging.recover, target)
                found = await asyncio.to_thread(self.index.find, name)
            return found

    async def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Fetch into a staging folder, import another format, verify, and rename into place.

        An interrupted pull is resumed. Raises Unsupported if no backend imports the source's format.
        """
        format = source.format(name)
        if format != FORMAT:
            importer = _required(importer, format)
        yield PullProgress(status="pulling manifest")
        async with self._locked(name):
            stage = folder = await to_transfer_thread(self.installer.stage_pull, name, reuse=format == FORMAT)
            async with closing(source.fetch(name, stage, insecure=insecure)) as steps:
                async for step in steps:
                    yield step
            receipt = read_receipt(stage / RECEIPT) or FetchReceipt(source=source.provides(name) or source.name)
            if not await to_transfer_thread(self.installer.up_to_date, name, receipt):
                if importer is not None and format != FORMAT:
                    folder = await to_transfer_thread(self.installer.stage_new, name, ".import")
                    file = await to_transfer_thread(only_file, stage, format)
                    async with closing(_imported(importer, file, folder, format)) as steps:
                        async for step in steps:
                            yield step
                yield PullProgress(status="verifying sha256 digest")
                yield PullProgress(status="writing manifest")
                await to_transfer_thread(self.installer.finish, folder, name, receipt=receipt)
            await discard(stage)
            yield PullProgress(status="success")

    async def delete(self, name: ModelName) -> None:
        """Remove a model's folder. Models created over it keep their files: they have links of their own.

        Raises Conflict if other models lie in the folder.
        """
        async with self._locked(name):
            folder = await to_transfer_thread(self.layout.find, name)
            if folder is None:
                raise NotFound(f"model '{name.short}' not found", code="MDL002")
            if nested := await to_transfer_thread(nested_models, folder):
                inside = ", ".join(path.name for path in nested[:5])
                raise Conflict(
                    f"{folder} is not removed: other models lie in it ({inside})", hint="ollmlx doctor storage"
                )
            with storage_errors(f"cannot remove {name.short}"):
                await to_transfer_thread(self.layout.staging.remove, folder)
            await discard(self.layout.staging.folder(name))

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Install the same weights under a second name: every file is linked, only the manifest is new."""
        if model.name == target and model.path == self.layout.find(target):
            return
        async with self._locked(target):
            stage = await to_transfer_thread(self.installer.stage_new, target, ".new")
            try:
                files = await to_transfer_thread(self.installer.link_model, model, stage)
                receipt = FetchReceipt(source=model.source, license="\n".join(model.defaults.license), files=files)
                defaults = await to_transfer_thread(add_adapter, model.defaults, stage)
                base = model.details.parent_model
                await to_transfer_thread(self.installer.finish, stage, target, receipt, defaults, base)
            finally:
                await discard(stage)

    async def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Create a model from files, or over an installed model, whose weights are linked."""
        if request.defaults.template:
            await to_transfer_thread(check_template, request.defaults.template)
        async with self._locked(request.name):
            stage = await to_transfer_thread(self.installer.stage_new, request.name, ".new")
            files = stage.with_name(stage.name + ".files")
            try:
                async with closing(self._weights(request, importer, stage, files)) as steps:
                    async for step in steps:
                        yield step
                known = await to_transfer_thread(self._link_base, request, stage)
                defaults = await to_transfer_thread(add_adapter, merged_defaults(request), stage)
                yield PullProgress(status="writing manifest")
                base = str(request.base.name) if request.base else ""
                await to_transfer_thread(self.installer.finish, stage, request.name, known, defaults, base)
                yield PullProgress(status="success")
            finally:
                await discard(stage, files)

    # -- private -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _locked(self, name: ModelName) -> AsyncIterator[None]:
        """Hold a model's lock. Raises Conflict if its folder holds another model."""
        async with locked(self.layout.staging.lock(name)):
            try:
                await asyncio.to_thread(self.index.find, name)
            except Conflict:
                raise
            except OllmlxError:  # a damaged model may be pulled again, replaced and removed
                pass
            yield

    async def _weights(
        self, request: CreateRequest, importer: Importer | None, stage: Path, files: Path
    ) -> AsyncIterator[PullProgress]:
        """Fill `stage` from files, by importing another format, or by quantising.

        `files` is the folder in which uploaded files are linked for an importer. If the weights are those of the base
        as they are, nothing is done: `_link_base` links them.
        """
        base = request.base
        if request.files:
            format, source = file_format(request.files), files / request.name.folder  # errors show the folder's name
            is_final = format == FORMAT and not request.quantize
            await to_transfer_thread(link_files, request.files, stage if is_final else source)
            if format != FORMAT:
                source = await to_transfer_thread(only_file, source, format)
        elif base is not None:
            format, source = base.format, base.path
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        options: dict[str, object] | None = None
        if request.quantize:
            config = await to_transfer_thread(read_json, source, "config.json") if format == FORMAT else None
            if quantization_of(config or {}) or speech_weights(request.files) or format in (WHISPER, PIPER):
                raise Unsupported("quantization is only supported for F16, BF16 and F32 models")
            options = {"quantize": request.quantize}
        elif format in KEPT:
            return
        async with closing(_imported(_required(importer, format), source, stage, format, options)) as steps:
            async for step in steps:
                yield step

    def _link_base(self, request: CreateRequest, stage: Path) -> FetchReceipt:
        base = request.base
        if base is None:
            return FetchReceipt(source=_origin(request.files))
        if base.format not in KEPT or request.quantize or request.files:
            own = base.format == "gguf" and base.source in ("", "local")
            return FetchReceipt(source=f"gguf:{base.name.short}" if own else base.source)
        return FetchReceipt(source=base.source, files=self.installer.link_model(base, stage))


def _origin(files: Mapping[str, Path]) -> str:
    """Return the source of a model that is created from files: the name of a GGUF file tells what was imported."""
    return next((f"gguf:{name}" for name in files if name.lower().endswith(".gguf")), "local")


async def _imported(
    importer: Importer, source: Path, into: Path, format: str, options: dict[str, object] | None = None
) -> AsyncIterator[PullProgress]:
    """Run an importer. A failed import leaves no folder `into`."""
    try:
        async with closing(importer(source, into, format=format, options=options)) as steps:
            async for step in steps:
                yield step
    except BaseException:
        await asyncio.shield(discard(into))
        raise


def _required(importer: Importer | None, format: str) -> Importer:
    if importer is None:
        raise Unsupported(
            f"no backend imports the format {format!r}",
            code="MDL005",
            hint="ollmlx plugin list shows which backends are on",
        )
    return importer
