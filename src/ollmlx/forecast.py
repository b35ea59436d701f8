"""Forecasts of pulls: what each source would fetch for a name, and whether this machine could run it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ollmlx.errors import OllmlxError
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.library import ModelLibrary
from ollmlx.model.events import closing
from ollmlx.model.names import ModelName
from ollmlx.storekit.outline import outlined_model
from ollmlx.storekit.staging import discard
from ollmlx.storekit.threads import to_transfer_thread
from ollmlx.types import PullCandidate, PullForecast


async def forecast(
    name: ModelName, library: ModelLibrary, planner: LaunchPlanner, *, insecure: bool = False
) -> Sequence[PullForecast]:
    """Return what a pull of a name would take, the first choice first. Downloads headers only.

    Raises NotFound when no source provides the name, StorageError without room for the headers.
    """
    folder = Path(await to_transfer_thread(tempfile.mkdtemp, prefix="ollmlx-preview-"))
    try:
        async with closing(library.preview(name, folder, insecure=insecure)) as found:
            return [
                PullForecast(source=source, error=each.message, hint=each.hint or "")
                if isinstance(each, OllmlxError)
                else await _judged(name, source, each, planner)
                async for source, each in found
            ]
    finally:
        await discard(folder)


async def _judged(name: ModelName, source: str, candidate: PullCandidate, planner: LaunchPlanner) -> PullForecast:
    """Plan the model of a candidate as if it were installed. A file that would be imported is judged as it is."""
    known = PullForecast(source=source, origin=candidate.origin, format=candidate.format, size=candidate.size)
    try:
        model = await to_transfer_thread(outlined_model, name, candidate)
        if model is None:
            return known
        spec = await planner.plan(model, model.defaults.options)
    except OllmlxError as error:
        return known.model_copy(update={"error": error.message, "hint": error.hint or ""})
    return known.model_copy(
        update={
            "backend": spec.backend,
            "context_length": spec.context_length,
            "model_context": model.details.context_length or 0,
            "memory": spec.estimate.total,
            "fits": planner.fits(spec),
        }
    )
