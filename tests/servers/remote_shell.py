"""Other machines for tests: what ssh and sshd are to a rank, over plain TCP and without any protection.

`serve ADDRESS` runs commands on a terminal of their own, hangs up when the connection ends, and keeps them when it only
falls silent. `call … HOST COMMAND` is the `ssh` that mlx.launch runs.
"""

from __future__ import annotations

import os
import pty
import select
import socket
import socketserver
import sys
from typing import BinaryIO

PORT = 2222
_END = b"\0"
"""Before the exit status; no program under test prints it."""


class Terminal(socketserver.StreamRequestHandler):
    """One command. Its own process, so that it may fork."""

    def handle(self) -> None:
        command = self.rfile.readline()
        pid, master = pty.fork()
        if pid == 0:
            os.execv("/bin/bash", ["bash", "-c", command.decode()])
        while True:
            ready, _, _ = select.select([master, self.connection], [], [])
            if self.connection in ready:
                if not (typed := self.connection.recv(4096)):
                    return  # closes the terminal: the kernel hangs up
                os.write(master, typed)
            if master in ready:
                try:
                    printed = os.read(master, 65536)
                except OSError:
                    break
                self.connection.sendall(printed)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.connection.sendall(_END + b"%d" % (status if status >= 0 else 255))


class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    max_children = 20


def call(host: str, command: str, printed: BinaryIO) -> int:
    """Run a command there, with this process's input; answers its exit status, 255 when the connection broke."""
    with socket.create_connection((host, PORT), timeout=60) as connection:
        connection.settimeout(None)
        connection.sendall(command.replace("\n", " ").encode() + b"\n")
        inputs: list[int | socket.socket] = [0, connection]
        heard = b""
        while True:
            ready, _, _ = select.select(inputs, [], [])
            if 0 in ready:
                typed = os.read(0, 4096)
                if not typed:
                    inputs.remove(0)
                connection.sendall(typed)
            if connection in ready:
                data = connection.recv(65536)
                text, end, _ = data.partition(_END)
                printed.write(b"" if heard else text)
                printed.flush()
                heard += data[len(text) :] if end or heard else b""
                if not data:
                    return int(heard.removeprefix(_END) or 255)


def main(arguments: list[str]) -> int:
    if arguments[0] == "serve":
        with Server((arguments[1], PORT), Terminal) as server:
            print("ready", flush=True)
            server.serve_forever()
    host, command = arguments[-2:]
    try:
        return call(host, command, sys.stdout.buffer)
    except OSError as error:
        print(error, file=sys.stderr)
        return 255


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
