"""The pictures of a request: fetched where that is allowed, decoded in a helper process, and checked.

A runner gets only pictures that were read once: upright, 8 bits a channel, without transparency, as PNG or JPEG.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import warnings
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from ollmlx.errors import InvalidRequest, OllmlxError
from ollmlx.helper import run_limited
from ollmlx.storekit.public_addresses import PublicAddresses
from ollmlx.types import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx2
    from PIL.Image import Image


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


FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
HEIC: Final = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")
"""The pictures of telephones, by the beginnings of their files."""
MOST_BYTES: Final = 48 << 20
"""Bytes of a picture's file."""
MOST_PIXELS: Final = 32_000_000
"""Pixels that are decoded. JPEGs are decoded at half, a quarter or an eighth of their size where that suffices."""
LONGEST_SIDE: Final = 4096
"""Pixels; larger pictures are scaled down to it. Models look at less."""
SHORTEST_SIDE: Final = 32
"""Pixels; smaller pictures are scaled up to it: models cannot look at less."""
LARGEST_RATIO: Final = 100
"""A picture may be so many times as long as wide."""
CPU_SECONDS: Final = 10
WRITTEN_BYTES: Final = 96 << 20
"""Bytes of a picture that is written anew."""
KNOWN_BYTES: Final = 64 << 20
MOST_KNOWN: Final = 256
"""Bytes of such pictures that are kept, and pictures that need not be read again."""


async def read_pictures(messages: Sequence[Message], *, fetch_images: bool) -> tuple[Message, ...]:
    """Return the messages with their pictures fetched, checked and, where needed, written anew, in base64.

    Raises InvalidRequest for what is no picture or too large a one, and for addresses unless `fetch_images`.
    """
    known: dict[str, str] = {}
    for image in dict.fromkeys(image for message in messages for image in message.images):
        data = await fetch(image, MOST_BYTES, allowed=fetch_images) if is_address(image) else _decoded(image)
        known[image] = await asyncio.to_thread(_readable, data)
    return tuple(
        message.model_copy(update={"images": tuple(known[image] for image in message.images)})
        if message.images
        else message
        for message in messages
    )


def _decoded(image: str) -> bytes:
    if len(image) > MOST_BYTES * 4 // 3 + 4:
        raise _refused(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        return b64decode(image, validate=True)
    except ValueError as error:
        raise _refused("it is not base64") from error


def _readable(data: bytes) -> str:
    """Return a picture in base64. A conversation brings its pictures with each turn: they are read once. Blocks."""
    key = hashlib.sha256(data).digest()
    with _lock:
        written = _known.pop(key, None)
    if written is None:
        subject = "invalid image input: it"
        written = run_limited(_written_anew, data, what=subject, cpu=CPU_SECONDS, output=WRITTEN_BYTES) or b""
    with _lock:
        _known[key] = written
        while len(_known) > MOST_KNOWN or sum(map(len, _known.values())) > KNOWN_BYTES:
            _known.popitem(last=False)
    return b64encode(written or data).decode()


_known: OrderedDict[bytes, bytes] = OrderedDict()
"""Pictures written anew by the hash of what was sent; empty for those that stay as they are."""
_lock = threading.Lock()


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"invalid image input: {reason}")


# -- in the helper ---------------------------------------------------------------------------------------------------


def _written_anew(data: bytes) -> bytes | None:
    """Return the picture as a PNG; None if it can stay as it is. Raises InvalidRequest."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # checked here, with one limit for all formats
    warnings.simplefilter("ignore")
    try:
        with Image.open(io.BytesIO(data), formats=(*FORMATS, *_more_formats())) as image:
            size, kind = image.size, image.format
            _check_size(image)
            image.load()
            found = _upright(image)
            plain = kind in ("PNG", "JPEG") and found is image and image.size == size
            return None if plain else _png(found)
    except UnidentifiedImageError:
        if data[4:12] in HEIC:
            raise _refused("it is HEIC, which needs pillow-heif: pip install 'ollmlx[vision]'") from None
        raise _refused("it is no PNG, JPEG, WebP, GIF or HEIC") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises all of these for damaged files
        raise _refused(f"it is damaged: {str(error)[:200]}") from None


def _more_formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads with another library, where that is installed."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _check_size(image: Image) -> None:
    """Raise InvalidRequest for too many pixels, or too narrow a picture. Lets a large JPEG be decoded smaller."""
    width, height = image.size
    if max(width, height) > LARGEST_RATIO * min(width, height):
        raise _refused(f"it is too narrow: {width} x {height} pixels")
    if image.format == "JPEG" and (longest := max(width, height)) > LONGEST_SIDE:
        image.draft(None, (width * LONGEST_SIDE // longest, height * LONGEST_SIDE // longest))
    if image.width * image.height > MOST_PIXELS:
        raise _refused(f"it has {width} x {height} pixels; at most {MOST_PIXELS // 1_000_000} million are read")


def _upright(image: Image) -> Image:
    """Return the picture as a person sees it, in 8 bits without transparency; the same object if it is so already."""
    from PIL import Image, ImageOps

    found = image
    if image.mode.startswith("I"):  # 16 bits
        found = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if found.has_transparency_data:
        above = found.convert("RGBA")
        found = Image.new("RGB", found.size, "white")
        found.paste(above, mask=above)
    elif found.mode not in ("RGB", "L"):
        found = found.convert("RGB")
    if image.getexif().get(ORIENTATION, 1) != 1:
        turned = ImageOps.exif_transpose(image).size
        found.getexif()[ORIENTATION] = image.getexif()[ORIENTATION]
        found = ImageOps.exif_transpose(found)
        assert found.size == turned
    return _scaled(found)


def _scaled(image: Image) -> Image:
    shorter, longer = sorted(image.size)
    factor = max(min(1.0, LONGEST_SIDE / longer), SHORTEST_SIDE / shorter)
    if factor == 1.0:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()


ORIENTATION: Final = 0x0112
"""EXIF's tag of the direction that is up."""
