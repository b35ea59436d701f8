"""The engine of models that see: the text engine with other parts."""

from __future__ import annotations

from functools import partial

from ollmlx.protocol import RunnerConfig
from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx.engine.instance import Parts
from ollmlx_mlx_vlm.engine.forward import PictureForward
from ollmlx_mlx_vlm.engine.model import read_model
from ollmlx_mlx_vlm.engine.prompts import PicturePrompts


class MlxVlmEngine(MlxEngine):
    """Implements `ollmlx.plugin.contracts.Engine` for models that see pictures."""

    async def load(self, config: RunnerConfig) -> None:
        """Load the model on the compute thread. Raises StorageError, OutOfMemory."""
        prompts = partial(PicturePrompts, folder=config.model.path, trust=config.allow_remote_code)
        self.parts = Parts(read=read_model, prompts=prompts, forward=lambda loaded: PictureForward(loaded.model))
        await super().load(config)
