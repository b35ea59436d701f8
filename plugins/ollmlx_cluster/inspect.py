"""`python -m ollmlx_cluster.inspect [FOLDER…]`: prints versions and model digests of this host, as JSON.

The doctor runs it on each host with ssh, and calls it on this one. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("ollmlx", "mlx", "mlx-lm")
HEAD: Final = 1 << 20
"""Bytes of each file that are compared: a weight file begins with its list of tensors."""
_OWN: Final = "ollmlx.json"
"""Not compared: it says when and from where the model was installed."""


def inspect(folders: list[str]) -> dict[str, Any]:
    """Return versions, and a digest of the model in each of these folders (None: there is no model)."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return {"versions": found, "models": {folder: fingerprint(Path(folder)) for folder in folders}}


def fingerprint(folder: Path) -> str | None:
    """Return a digest of names, sizes and beginnings of a model's files; None without a model. Fast for any size."""
    if not (folder / "config.json").is_file():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != _OWN and not file.name.startswith("."):
            with file.open("rb") as content:
                head = hashlib.sha256(content.read(HEAD)).hexdigest()
            digest.update(f"{file.name} {file.stat().st_size} {head}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(inspect(sys.argv[1:])) + "\n")
