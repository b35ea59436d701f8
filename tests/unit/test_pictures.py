"""Pictures of clients: what is read, what is written anew, what is refused."""

from __future__ import annotations

import base64
import io
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from PIL import Image
from tests.pictures import base64_of, drawn, file_of

from ollmlx import pictures
from ollmlx.errors import InvalidRequest
from ollmlx.pictures import fetch, read_pictures
from ollmlx.storekit.public_addresses import PublicAddresses
from ollmlx.types import Message


async def read(image: str) -> str:
    (message,) = await read_pictures([Message(role="user", images=(image,))], fetch_images=False)
    return message.images[0]


async def shown(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(await read(image))))


@pytest.mark.parametrize(
    "image",
    [base64_of(drawn()), base64_of(drawn(), "JPEG"), base64_of(drawn(128, mode="L"))],
    ids=["png", "jpeg", "grey"],
)
async def test_a_plain_picture_stays_as_it_is(image: str) -> None:
    assert await read(image) == image


def sideways() -> str:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was held upright
    return base64_of(drawn("red", (64, 48)), "JPEG", exif=exif)


def of_a_telephone() -> str:
    heif = pytest.importorskip("pillow_heif", reason="pip install 'ollmlx[vision]'")
    heif.register_heif_opener()
    return base64_of(drawn(), "HEIF", quality=-1)


async def test_a_heic_picture_is_read() -> None:
    image = await shown(of_a_telephone())
    assert (image.format, image.size) == ("PNG", (64, 48))
    red, green, blue = image.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


async def test_a_heic_picture_without_its_library_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(pictures, "run_limited", lambda function, *data, **how: function(*data))
    with pytest.raises(InvalidRequest, match=r"pip install 'ollmlx\[vision\]'"):
        await read(base64_of(b"\0\0\0\x18ftypheic" + bytes(64)))


def deep() -> str:
    return base64_of(Image.frombytes("I;16", (40, 40), b"\x00\x80" * 1600))


@pytest.mark.parametrize(
    ("image", "size", "color"),
    [
        (sideways(), (48, 64), (254, 0, 0)),
        (base64_of(drawn(), "WEBP", lossless=True), (64, 48), (255, 0, 0)),
        (base64_of(drawn(), "GIF", save_all=True, append_images=[drawn("blue")]), (64, 48), (255, 0, 0)),
        (base64_of(drawn((255, 0, 0, 0), mode="RGBA")), (64, 48), (255, 255, 255)),
        (base64_of(drawn((0, 255, 255, 0), mode="CMYK"), "JPEG"), (64, 48), (254, 0, 0)),
        (deep(), (40, 40), (128, 128, 128)),
        (base64_of(drawn("red", (1, 1))), (32, 32), None),
        (base64_of(drawn("red", (5000, 3000))), (4096, 2458), (255, 0, 0)),
        (base64_of(drawn("red", (9000, 6000)), "JPEG"), (4096, 2731), (254, 0, 0)),
    ],
    ids=["exif", "webp", "gif", "transparent", "cmyk", "16 bits", "one pixel", "large", "large jpeg"],
)
async def test_others_are_written_anew_as_a_person_sees_them(
    image: str, size: tuple[int, int], color: tuple[int, int, int] | None
) -> None:
    picture = await shown(image)
    assert (picture.format, picture.size, picture.getexif().get(0x0112, 1)) == ("PNG", size, 1)
    if color is not None:
        found: Any = picture.convert("RGB").getpixel((0, 0))
        assert all(abs(one - other) <= 2 for one, other in zip(found, color, strict=True))


@pytest.mark.parametrize("image", [base64_of(drawn("teal")), base64_of(drawn("teal"), "WEBP")])
async def test_a_picture_that_comes_again_is_not_read_again(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await read(image)
    monkeypatch.setattr(pictures, "run_limited", lambda *arguments, **limits: pytest.fail("read again"))
    assert await read(image) == first


def claiming(width: int, height: int) -> str:
    """Return a small PNG whose header claims a size."""
    data = file_of(drawn())
    header = struct.pack(">II", width, height) + data[24:29]
    return base64_of(data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:])


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("!!!", "it is not base64"),
        ("aGk", "it is not base64"),
        ("data:image/png;base64,aGk=", "it is not base64"),
        ("\U0001f600", "it is not base64"),
        ("aGk=", "it is no PNG, JPEG, WebP, GIF or HEIC"),
        (base64_of(drawn(), "BMP"), "it is no PNG"),
        (base64_of(drawn(), "TIFF"), "it is no PNG"),
        (base64_of(file_of(drawn())[:-60]), "it is damaged"),
        (base64_of(file_of(drawn(size=(400, 400)), "JPEG")[:900]), "it is damaged"),
        (claiming(30000, 30000), "it has 30000 x 30000 pixels; at most 32 million are read"),
        (claiming(2**31 - 1, 2**31 - 1), "it has 2147483647 x 2147483647 pixels"),
        (base64_of(drawn(size=(1, 20000))), "it is too narrow: 1 x 20000 pixels"),
        (claiming(0, 64), "it is"),
        ("A" * (70 << 20), "it has more than 48 MiB"),
        ("http://127.0.0.1/x.png", "addresses are not fetched here"),
    ],
)  # fmt: skip
async def test_what_is_no_picture_or_too_large_a_one_is_refused(image: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"invalid image input: {reason}"):
        await read(image)


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/inside":
            raise web.HTTPFound("http://127.0.0.2:9/x.png")
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if request.path == "/large":
            return web.Response(body=b"x" * 2000)
        return web.Response(body=b"picture") if request.path == "/x.png" else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"{host}:{port}"
    await runner.cleanup()


async def test_a_picture_is_fetched_where_that_is_allowed(site: str) -> None:
    found = await fetch(f"http://{site}/x.png", 1000, allowed=True, check=PublicAddresses((site,)))
    assert found == b"picture"


@pytest.mark.parametrize(
    ("path", "named", "reason"),
    [
        ("x.png", False, "127.0.0.1 is not on a public address"),
        ("inside", True, "127.0.0.2 is not on a public address"),
        ("loop", True, "it was not fetched"),
        ("large", True, "it has more than"),
        ("nothing", True, "it was not fetched: .*404"),
    ],
)
async def test_nothing_is_fetched_from_this_network_nor_without_end(
    site: str, path: str, named: bool, reason: str
) -> None:
    check = PublicAddresses((site,)) if named else None
    with pytest.raises(InvalidRequest, match=f"invalid image input: .*{reason}"):
        await fetch(f"http://{site}/{path}", 1000, allowed=True, check=check)


@pytest.mark.parametrize(
    "address", ["http://localhost/x", "http://[::1]/x", "http://10.0.0.1/x", "http:///x", "http://a b/"]
)
async def test_an_address_inside_or_without_a_host_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid image input"):
        await fetch(address, 1000, allowed=True)
