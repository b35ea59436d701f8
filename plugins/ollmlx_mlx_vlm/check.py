"""The doctor's check of models that see: mlx-vlm is installed and loads when such models are installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx_mlx_vlm.backend import INSTALL, MISSING, is_readable

IMPORT_SECONDS: Final = 60
"""mlx-vlm imports transformers and much else: seconds on a slow disk."""
MODELS_SHOWN: Final = 10
PROGRAM: Final = """
from PIL import features
lacking = [name for name in ("jpg", "webp", "zlib") if not features.check(name)]
assert not lacking, f"Pillow cannot decode {', '.join(lacking)}: pip install --force-reinstall pillow"
import mlx_vlm.utils, ollmlx_mlx_vlm.engine.engine
"""


@dataclass(frozen=True)
class VisionCheck:
    """Finds nothing as long as no model that sees is installed. `installed` tells whether mlx-vlm is installed."""

    installed: Callable[[], bool]

    name = "pictures"
    group = "machine"
    codes = (MISSING,)

    async def run(self, context: Any) -> Sequence[Finding]:
        """List the models whose pictures mlx-vlm would read; when there are any, load it in a child process."""
        models = await _models(context)
        if not models:
            return []
        more = len(models) - MODELS_SHOWN
        shown = (*models[:MODELS_SHOWN], *([f"and {more} more"] if more > 0 else []))
        if not self.installed():
            title = "models that see pictures are installed and mlx-vlm, which reads them, is not"
            return [Finding.of(MISSING, title, evidence=shown, commands=[INSTALL], severity=Severity.WARNING)]
        seconds = min(IMPORT_SECONDS, context.left())
        done = await context.child([sys.executable, "-P", "-c", PROGRAM], seconds)
        if done.status is None and seconds < IMPORT_SECONDS:
            late = "skipped: there was no time to try whether mlx-vlm can be loaded"
            return [Finding.of(MISSING, late, severity=Severity.SKIPPED)]
        if done.status == 0:
            return []
        reason = done.err.strip().splitlines()[-1:] or [f"exit status {done.status}"]
        title = "mlx-vlm is installed and cannot be loaded"
        return [Finding.of(MISSING, title, evidence=(*reason, *shown), commands=[INSTALL], severity=Severity.WARNING)]


async def _models(context: Any) -> list[str]:
    """Return the names of installed models with a vision encoder of a known family, sorted."""
    return sorted({model.name.short for model in await context.models() if is_readable(model)})
