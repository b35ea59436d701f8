"""Pictures behind addresses: fetched only where the settings allow it, and from public addresses only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from ollmlx.errors import InvalidRequest, OllmlxError
from ollmlx.storekit.public_addresses import PublicAddresses

if TYPE_CHECKING:
    import httpx2

SECONDS: Final = 20.0
REDIRECTS: Final = 3

Hook = Callable[["httpx2.Request"], Awaitable[None]]


def is_address(image: str) -> bool:
    """Return whether a client sent an address in the place of a picture."""
    return image[:8].lower().startswith(("http://", "https://"))


async def fetch(address: str, limit: int, *, allowed: bool, check: Hook | None = None) -> bytes:
    """Return what lies at an address: at most `limit` bytes, within SECONDS. `check` sees every request before it.

    Raises InvalidRequest. Proxies are not used: behind one the address could not be checked.
    """
    if not allowed:
        raise InvalidRequest(
            "invalid image input: addresses are not fetched here, send the picture itself in base64",
            hint="`fetch_images = true` in [security] of ollmlx.toml fetches pictures from public addresses",
        )
    import httpx2

    hooks: dict[str, list[Any]] = {"request": [check or PublicAddresses(())]}
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx2.AsyncClient(
                follow_redirects=True, max_redirects=REDIRECTS, trust_env=False, event_hooks=hooks
            ) as client,
            client.stream("GET", address) as answer,
        ):
            answer.raise_for_status()
            data = bytearray()
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > limit:
                    raise _failed(f"it has more than {limit >> 20} MiB")
            return bytes(data)
    except InvalidRequest:
        raise
    except TimeoutError:
        raise _failed(f"it took more than {SECONDS:.0f} s to fetch") from None
    except OllmlxError as refusal:
        raise _failed(f"it was not fetched: {refusal.message}") from refusal
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _failed(f"it was not fetched: {str(error).splitlines()[0] if str(error) else 'no answer'}") from error


def _failed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"invalid image input: {reason}")
