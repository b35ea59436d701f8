"""Time 1,000 sentences of 20 words: all-MiniLM-L6-v2 on MLX, through llama.cpp, and in sentence-transformers.

    python benchmarks/embeddings.py [--peer PYTHON]

`--peer`: the Python of an environment with sentence-transformers. The daemons and the peer are warm; each number is the
least of three runs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # instead of this folder, which has a gguf.py

from tests.servers.bert_gguf import write_bert_gguf  # noqa: E402

from ollmlx.testing.daemon import Daemon  # noqa: E402

COUNT, LENGTH, RUNS = 1000, 20, 3
WORDS = """time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night point home"""
PEER = """
import sys, time
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = open(sys.argv[2], encoding="utf-8").read().splitlines()
model.encode(texts[:64])
def once():
    began = time.perf_counter()
    model.encode(texts, batch_size=32, normalize_embeddings=True)
    return time.perf_counter() - began
print(min(once() for _ in range(3)))
"""


def sentences() -> list[str]:
    rng, words = random.Random(3), WORDS.split()
    return [" ".join(rng.choices(words, k=LENGTH)) for _ in range(COUNT)]


def seconds(daemon: Daemon, model: str, texts: list[str]) -> float:
    def once(given: list[str]) -> float:
        began = time.perf_counter()
        answer = daemon.post("/api/embed", {"model": model, "input": given})
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began

    once(texts[:64])
    return min(once(texts) for _ in range(RUNS))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", metavar="PYTHON")
    peer = parser.parse_args().peer
    texts = sentences()
    with tempfile.TemporaryDirectory() as scratch:
        with Daemon(Path(scratch) / "d", env={"HOME": str(Path.home())}) as daemon:
            assert daemon.cli("pull", "all-minilm", timeout=400).returncode == 0
            folder = daemon.models / "mlx/all-minilm"
            write_bert_gguf(folder, daemon.folder / "minilm.gguf")
            (daemon.folder / "Modelfile").write_text("FROM ./minilm.gguf\n", encoding="utf-8")
            assert daemon.cli("create", "gguf", "-f", "Modelfile", "--backend", "llamacpp").returncode == 0
            for model in ("all-minilm", "gguf"):
                print(f"{model}: {COUNT / seconds(daemon, model, texts):.0f} sentences/s", flush=True)
                daemon.cli("stop", model)
            file = Path(scratch) / "texts"
            file.write_text("\n".join(texts), encoding="utf-8")
            copy = Path(scratch) / "folder"
            subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
        if peer:
            done = subprocess.run([peer, "-c", PEER, copy, file], check=True, capture_output=True, text=True)
            print(f"sentence-transformers: {COUNT / float(done.stdout.split()[-1]):.0f} sentences/s")


if __name__ == "__main__":
    main()
