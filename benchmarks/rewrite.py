"""A file of 60 lines, rewritten with one change: ollmlx without and with `guess`, and llama.cpp's server.

    python benchmarks/rewrite.py --gguf Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf [--llama-server PATH] [--rounds 3]

By turns; prints tokens a second from the request to the last token, medians, and whether the texts are equal. Then
the same for a chat.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import peers
import psutil
import sides
from engine import progress

from ollmlx.bench.measure import Target, ask, rate, session_for_measuring

LINES = Path(__file__).with_name("peers.py").read_text(encoding="utf-8").splitlines()[42:102]
CHANGE = "Rename the function `_ready` to `_wait_for` in this file. Write the whole file again and nothing else.\n\n"
CHATS = ("Why is the sky blue?", "Tell me about Rome.", "How do I sort a list in Python?", "What is a good breakfast?")
GUESS = {"OLLMLX_PLUGINS__LLAMACPP__GUESS": "true"}


async def compare(arguments: argparse.Namespace, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        targets = []
        for label, env in (("ollmlx", {}), ("ollmlx, guess", GUESS)):
            daemon = stack.enter_context(sides.ollmlx(folder / label.replace(", ", "-"), env=env))
            peers.created(daemon, arguments.gguf, "peer")
            targets.append(Target(label, f"{daemon.url}/v1", "peer"))
        cores = psutil.cpu_count(logical=False) or 1
        server, _ = await stack.enter_async_context(peers.llama_server(arguments.gguf, arguments.llama_server, cores))
        targets.append(server)
        session = await stack.enter_async_context(session_for_measuring())
        code = "\n".join(LINES)
        for what, prompts in (("rewriting", (f"{CHANGE}```python\n{code}\n```",)), ("chat", CHATS)):
            rates: dict[str, list[float]] = {target.label: [] for target in targets}
            texts: dict[str, str] = {}
            for turn in range(arguments.rounds):
                for target in targets[:: -1 if turn % 2 else 1]:
                    progress(f"{what}, round {turn + 1}: {target.label}")
                    answers = [
                        await ask(
                            session, target, [{"role": "user", "content": prompt}], 1000 if what == "rewriting" else 96
                        )
                        for prompt in prompts
                    ]
                    rates[target.label].append(median(rate([answer]) for answer in answers))
                    texts[target.label] = "".join(answer.text for answer in answers)
            print(f"{what}: " + ", ".join(f"{label} {median(found):.1f} tokens/s" for label, found in rates.items()))
            print(f"  equal texts: {len(set(texts.values())) == 1}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--llama-server", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as folder:
        asyncio.run(compare(arguments, Path(folder)))


if __name__ == "__main__":
    main()
