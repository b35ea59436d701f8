"""What one request to a model that is already loaded costs the daemon: sequential requests, a fake engine, one token.

    python benchmarks/warm.py [--requests 500] [--path /api/chat --path /v1/messages]

Processor time of the daemon for each request, and the latency that the client sees. Loopback only; starts its own
daemon in a temporary folder and stops it. Prints a table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import tempfile
import time
from pathlib import Path

from relay import cpu, daemon

PATHS = ("/api/chat", "/v1/messages")
MESSAGE = {"role": "user", "content": "fake:tokens=1 go"}
WARM_UP = 20  # requests before the measurement: the model is loaded, and every module is imported


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Send one request and read its answer. Returns the seconds it took."""
    body = {"model": "tiny", "stream": False, "max_tokens": 8, "messages": [MESSAGE]}
    began = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {text.decode()}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--path", action="append", dest="paths")
    asked = parser.parse_args()
    print(f"{'path':<14} {'daemon CPU':>12} {'median':>10} {'p95':>10}   per request, {asked.requests} requests")
    with tempfile.TemporaryDirectory() as folder:
        process, port = daemon(Path(folder), 4, None)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for path in asked.paths or PATHS:
                for _ in range(WARM_UP):
                    ask(connection, path)
                before = cpu(process.pid)
                times = sorted(ask(connection, path) for _ in range(asked.requests))
                used = (cpu(process.pid) - before) / asked.requests
                p95 = times[int(len(times) * 0.95)]
                print(f"{path:<14} {used * 1e3:9.2f} ms {statistics.median(times) * 1e3:7.2f} ms {p95 * 1e3:7.2f} ms")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


if __name__ == "__main__":
    main()
