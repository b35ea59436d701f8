"""`python -m ollmlx_mlx.cluster.inspect [FOLDER…]` on each host: what the doctor has to know of it, as JSON."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ollmlx", "mlx", "mlx-lm")


def inspect(folders: list[str]) -> dict[str, Any]:
    """Versions, and which of these model folders are there."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return {"versions": found, "models": {folder: (Path(folder) / "config.json").is_file() for folder in folders}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(inspect(sys.argv[1:])) + "\n")
