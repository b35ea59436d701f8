"""Local files on their way to the daemon: found, hashed, uploaded unless it has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ollmlx.cli.client import Client, Json
from ollmlx.errors import InvalidRequest, NotFound

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "*.tiktoken")
CHUNK = 1024 * 1024

Show = Callable[[Json], None]


def local_files(source: str, folder: Path) -> dict[str, Path] | None:
    """The files a Modelfile's path means, by name; None when it is no path but a model's name.

    Raises NotFound for a path where nothing is, InvalidRequest for a folder without a model.
    """
    path = folder / Path(source).expanduser()
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        return _files_of(path)
    if source.startswith((".", "/", "~")) or source.lower().endswith((".gguf", ".safetensors")):
        raise NotFound(f"there is no file {path}")
    return None


def _files_of(folder: Path) -> dict[str, Path]:
    found = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in found):
        found = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    if not found:
        raise InvalidRequest(f"{folder} holds neither safetensors nor GGUF files")
    for path in found:
        _check_inside(path, folder)
    return {path.name: path for path in found}


def _check_inside(path: Path, folder: Path) -> None:
    """A link may lead to the blobs of a hub's cache, and nowhere else out of the folder."""
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    if not target.is_relative_to(home) and not (home.parent.name == "snapshots" and target.is_relative_to(blobs)):
        raise InvalidRequest(f"{path} leads out of its folder, to {target}")


def upload_all(client: Client, files: dict[str, Path], show: Show) -> dict[str, str]:
    """Have the daemon hold every file; the digest of each."""
    show({"status": "gathering model components"})
    return {name: upload(client, path, show) for name, path in files.items()}


def upload(client: Client, path: Path, show: Show) -> str:
    """Upload one file, unless the daemon has it. Its digest."""
    digest = _digest(path)
    size, sent = path.stat().st_size, 0
    if client.exists(f"/api/blobs/{digest}"):
        return digest

    def tell(count: int) -> None:
        nonlocal sent
        sent += count
        show({"status": f"copying file {digest}", "digest": digest, "total": size, "completed": sent})

    tell(0)
    with path.open("rb") as file:
        client.upload(f"/api/blobs/{digest}", file, size, tell)
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
