"""A proxy that cuts connections on which the server says nothing for a while, as load balancers and gateways do.

`python impatient_proxy.py HOST PORT SECONDS` prints the port on which it listens. Bytes pass unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def main(host: str, port: int, patience: float) -> None:
    """Serve until the process ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(host, port)
        sending = asyncio.create_task(pass_on(reader, downstream))
        with contextlib.suppress(TimeoutError, OSError):
            while data := await asyncio.wait_for(upstream.read(65536), patience):
                writer.write(data)
                await writer.drain()
        sending.cancel()
        for end in (writer, downstream):
            end.transport.abort()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
