"""Events per second that the daemon relays: a fake engine that emits as fast as it can, 16 streams, one client.

    python benchmarks/relay.py [--streams 16] [--tokens 4000] [--family ollama|openai] [--profile FILE]

Bounded in count, loopback only; starts its own daemon in a temporary folder and stops it. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAKE_PLUGIN = ROOT / "src/ollmlx/testing/fake"
PATHS = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}
PATIENCE = 30  # seconds for the daemon to listen


@dataclass
class Received:
    """The events and bytes of one stream."""

    events: int = 0
    reads: int = 0
    bytes: int = 0
    first: float = 0.0


async def listen(port: int, family: str, tokens: int) -> Received:
    """Read one stream to its end, counting records and reads. Raises when it does not end as it should."""
    content = f"fake:tokens={tokens} go"
    body = json.dumps({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": content}]}).encode()
    head = (
        f"POST {PATHS[family]} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    began, heard, last = time.perf_counter(), Received(), b""
    writer.write(head.encode() + body)
    await writer.drain()
    status = await reader.readline()
    if b" 200" not in status:
        raise SystemExit(f"the daemon said {status!r}: {(await reader.read()).decode()}")
    while piece := await reader.read(2**18):
        heard.first = heard.first or time.perf_counter() - began
        heard.events += piece.count(b'"content":"')
        heard.reads += 1
        heard.bytes += len(piece)
        last = (last + piece)[-600:]
    writer.close()
    if (b'"done":true' if family == "ollama" else b"[DONE]") not in last:
        raise SystemExit(f"a stream ended in {last[-200:]!r}")
    return heard


async def measure(port: int, family: str, streams: int, tokens: int) -> tuple[list[Received], float]:
    await listen(port, family, 10)  # the model is loaded
    began = time.perf_counter()
    heard = await asyncio.gather(*(listen(port, family, tokens) for _ in range(streams)))
    return list(heard), time.perf_counter() - began


def daemon(folder: Path, streams: int, profile: Path | None) -> tuple[subprocess.Popen[str], int]:
    """A daemon with a fake model, and its port."""
    config = folder / "ollmlx.toml"
    config.write_text(
        f"""
[server]
host = "127.0.0.1:0"
[storage]
models = "{folder}/models"
state = "{folder}/state"
[runners]
parallel = {streams}
[logging]
level = "warning"
[plugins]
paths = ["{FAKE_PLUGIN}"]
[plugins.fake.models]
tiny = {{ parallel = {streams} }}
""",
        encoding="utf-8",
    )
    python = [sys.executable, *(["-m", "cProfile", "-o", str(profile)] if profile else [])]
    command = [*python, "-m", "ollmlx", "--config", str(config), "serve"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    assert process.stderr is not None
    deadline = time.monotonic() + PATIENCE
    while line := process.stderr.readline():
        if " listens on " in line:
            return process, int(line.rsplit(":", 1)[1])
        print(line, end="", file=sys.stderr)
        if time.monotonic() > deadline:
            break
    process.kill()
    raise SystemExit("the daemon did not start")


def cpu(pid: int) -> float:
    """Processor seconds of a process so far."""
    import psutil

    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--family", choices=sorted(PATHS), default="ollama")
    parser.add_argument("--profile", type=Path)
    asked = parser.parse_args()
    streams, tokens = min(asked.streams, 256), min(asked.tokens, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        process, port = daemon(Path(folder), streams, asked.profile)
        try:
            before = cpu(process.pid)
            heard, seconds = asyncio.run(measure(port, asked.family, streams, tokens))
            used = cpu(process.pid) - before
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    events = sum(each.events for each in heard)
    print(f"family              {asked.family}")
    print(f"streams x tokens    {streams} x {tokens}   ({os.cpu_count()} processors for client, daemon and engine)")
    print(f"events              {events} in {seconds:.2f} s")
    print(f"events a second     {events / seconds:,.0f}")
    print(f"events a read       {events / sum(each.reads for each in heard):.1f}")
    print(f"daemon, us an event {used / events * 1e6:.1f}")
    print(f"first byte, slowest {max(each.first for each in heard) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
