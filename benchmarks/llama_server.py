"""llama.cpp's own HTTP server with the defaults of `llama-server -t THREADS`, from xllamacpp: a peer for `peers.py`.

    python benchmarks/llama_server.py MODEL.gguf PORT THREADS

It is the same code as the program `llama-server`, for machines on which that is not installed.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp


def main() -> None:
    model, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames, params.port = ["127.0.0.1"], port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel, params.kv_unified = 4, True  # what llama-server does when nothing is stated
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
