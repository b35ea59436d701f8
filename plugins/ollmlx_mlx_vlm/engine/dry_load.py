"""`python -m ollmlx_mlx_vlm.engine.dry_load FOLDER...`: the doctor's trial load of models that see.

mlx-vlm builds each model, its encoder and its projector included; otherwise it is the trial load of `ollmlx_mlx`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mlx_vlm.utils import load_model

from ollmlx_mlx.engine.dry_load import main


def read_seeing(folder: Path) -> Any:
    """Build the model of a folder without reading its weights."""
    return load_model(folder, lazy=True)


if __name__ == "__main__":
    main(sys.argv[1:], read_seeing)
