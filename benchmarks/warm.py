"""Cost of one request to a model that is already loaded: sequential requests, a fake engine, one token.

    python benchmarks/warm.py [--requests 500] [--path /api/chat --path /v1/messages]

Loopback only; starts its own daemon in a temporary folder and stops it. Prints a table.
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
BATCH = 100
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


def measure(connection: http.client.HTTPConnection, path: str, pid: int, count: int) -> tuple[float, float, float]:
    """Send so many requests. Returns seconds for each: the daemon's processor time, median and least latency.

    Of the processor time, the batch with the least counts: other work on the machine only adds to it.
    """
    for _ in range(WARM_UP):
        ask(connection, path)
    costs, times = [], []
    for _ in range(max(1, count // BATCH)):
        before = cpu(pid)
        times += [ask(connection, path) for _ in range(BATCH)]
        costs.append((cpu(pid) - before) / BATCH)
    return min(costs), statistics.median(times), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--path", action="append", dest="paths")
    asked = parser.parse_args()
    print(f"{'path':<14} {'daemon CPU':>12} {'median':>10} {'least':>10}   for each of {asked.requests} requests")
    with tempfile.TemporaryDirectory() as folder:
        process, port = daemon(Path(folder), 4, None)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for path in asked.paths or PATHS:
                figures = measure(connection, path, process.pid, asked.requests)
                print(f"{path:<14} " + " ".join(f"{seconds * 1e3:7.2f} ms" for seconds in figures))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


if __name__ == "__main__":
    main()
