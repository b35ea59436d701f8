"""`python -m ollmlx_mlx_vlm.engine.dry_load FOLDER...`: the doctor's trial load of models that see.

mlx-vlm builds each model, its encoder and its projector included; otherwise it is the trial load of `ollmlx_mlx`.
"""

from __future__ import annotations

import sys

from ollmlx_mlx.engine.dry_load import main
from ollmlx_mlx_vlm.engine.model import read_seeing

if __name__ == "__main__":
    main(sys.argv[1:], read_seeing)
