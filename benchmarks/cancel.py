"""Cancellation: how soon a client that disconnects frees the only slot of a runner, with the real model.

    python benchmarks/cancel.py [--model smollm2:135m] [--models FOLDER] [--repeat 5]

The runner serves one request at a time. A client asks and hangs up, in the prefill of a long prompt or in the middle of
an answer, streaming or not; from that moment on a short request is timed until its answer is there. It cannot begin
before the slot is free. Beside it stands what the short request takes alone. Loopback only. Exits 1 when a slot took
longer than a second.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ollmlx.testing.daemon import Daemon

TARGET = 1.0
"""Seconds within which the slot has to be free."""
PROMPT_TOKENS = 6000
PHASES = ("prefill", "decode")


def request(server: Daemon, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave the connection open."""
    host, _, port = server.address.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    data = json.dumps(body).encode()
    client.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return client


def short(server: Daemon, model: str, salt: random.Random) -> float:
    """Return the seconds that a short request takes. Its prompt is new, so that no cache helps."""
    began = time.monotonic()
    options = {"num_predict": 1, "temperature": 0}
    answer = server.post("/api/generate", {"model": model, "prompt": str(salt.random()), "options": options})
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


def leave(server: Daemon, model: str, phase: str, stream: bool, salt: random.Random) -> float:
    """Send a request, disconnect in the phase, and return the seconds that a short request then takes."""
    words = " ".join(str(salt.randrange(10)) for _ in range(PROMPT_TOKENS // 2))
    prompt = words if phase == "prefill" else f"Tell me a very long story about {salt.random()}."
    body = {"model": model, "prompt": prompt, "stream": stream, "options": {"num_predict": 4000, "repeat_penalty": 1.3}}
    with closing(request(server, body)) as client:
        client.setblocking(False)
        time.sleep(1.0 if phase == "prefill" else 2.0)
        (loaded,) = server.get("/api/ps").json()["models"]
        assert loaded["active"] == 1, f"{phase}: the request was over before it was left"
        try:
            heard = client.recv(1 << 20)
        except BlockingIOError:
            heard = b""
        assert bool(heard) == (stream and phase == "decode"), f"not in {phase}: {heard[:200]!r}"
    return short(server, model, salt)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--models", type=Path, help="a models folder that holds it; default: it is pulled")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    salt = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="ollmlx-cancel-") as folder:
        settings: dict[str, Any] = {"runners": {"parallel": 1}, "logging": {"level": "info"}}
        if options.models:
            settings["storage"] = {"models": str(options.models)}
        server = Daemon(Path(folder), settings=settings).start()
        try:
            if not options.models:
                server.post("/api/pull", {"model": options.model, "stream": False})
            short(server, options.model, salt)
            alone = [short(server, options.model, salt) for _ in range(options.repeat)]
            rows = {
                (phase, stream): [leave(server, options.model, phase, stream, salt) for _ in range(options.repeat)]
                for phase in PHASES
                for stream in (True, False)
            }
        finally:
            server.stop()
    print("| the client disconnects | a short request then takes, median / slowest |\n|---|---|")
    print(f"| (not at all: the short request alone) | {describe(alone)} |")
    for (phase, stream), times in rows.items():
        print(f"| in {phase}, {'streaming' if stream else 'not streaming'} | {describe(times)} |")
    return 0 if max(max(times) for times in rows.values()) < TARGET else 1


def describe(times: list[float]) -> str:
    """Median and slowest, in milliseconds."""
    return f"{statistics.median(times) * 1000:.0f} / {max(times) * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
