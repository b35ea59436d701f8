"""python benchmarks/listing.py [COUNT]: how long the stores take to list many models, the first time and again.

Writes COUNT (10,000) tiny models each of the stores mlx, ollama and local (Hugging Face's cache) to a temporary folder.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.ollama_folder import OllamaFolder, tiny_gguf
from tests.servers.tiny import tiny_files, write_model

from ollmlx.types import InstalledModel
from ollmlx_hub.store import MlxStore
from ollmlx_local_models.folders import known_folders
from ollmlx_local_models.store import LocalStore
from ollmlx_ollama_store.store import OllamaStore

REVISION = "0" * 40


def write_cache(hub: Path, count: int) -> None:
    """Write repositories as `hf download` does."""
    for number in range(count):
        repository = hub / f"models--org--m{number}"
        snapshot = repository / "snapshots" / REVISION
        write_model(repository / "blobs", tiny_files(weights=64))
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(REVISION)
        for blob in (repository / "blobs").iterdir():
            (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")


async def measure(name: str, models: Callable[[], Awaitable[Sequence[InstalledModel]]]) -> None:
    for attempt in ("first", "again", "again"):
        wall, processor = time.perf_counter(), time.process_time()
        found = await models()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"{name:7} {attempt}: {len(found)} models, {wall:.2f} s, {processor:.2f} s of processor time")


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        folder = OllamaFolder(root / "models")
        for number in range(count):
            folder.add(f"m{number}", {"model": tiny_gguf()})
            write_model(root / "mlx" / f"m{number}")
        write_cache(root / "hub", count)
        local = LocalStore(known_folders({"HF_HUB_CACHE": str(root / "hub")}, "linux", root, []))
        await measure("mlx", MlxStore(root / "mlx").list)
        await measure("ollama", OllamaStore(root / "models", root / "folders").list)
        await measure("local", local.list)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
