"""Bodies that come compressed: gzip and zstd, never growing beyond what a plain body may have. Pure."""

from __future__ import annotations

import zlib

from ollmlx.errors import InvalidRequest, TooLarge, UnsupportedEncoding

GZIP = 16 + zlib.MAX_WBITS
ZSTD_WINDOW = 8 * 1024 * 1024  # bytes a decoder must be able to look back (RFC 9659)

ZSTD_PIECE = 512
"""Bytes that are unpacked at a time: zstd's decoder knows no other limit for what comes out."""


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body that a `Content-Encoding` stands for, at most `limit` bytes.

    Raises UnsupportedEncoding, TooLarge, and InvalidRequest for what is damaged.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            found = _from_gzip(body, limit)
        case "zstd":
            found = _from_zstd(body, limit)
        case other:
            raise UnsupportedEncoding(
                f"request bodies with Content-Encoding {other[:40]!r} are not read here",
                hint="send it as it is, or with gzip or zstd",
            )
    if len(found) > limit:
        raise too_large()
    return found


def too_large() -> TooLarge:
    """What to tell the sender of a body beyond the limit."""
    return TooLarge("request body too large", hint="raise max_body in [server] of ollmlx.toml")


def _from_gzip(body: bytes, limit: int) -> bytes:
    """At most a byte more than the limit."""
    decoder = zlib.decompressobj(GZIP)
    try:
        found = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"invalid gzip body: {error}") from None
    if len(found) <= limit and (not decoder.eof or decoder.unused_data):
        raise InvalidRequest("invalid gzip body: it does not end where it should")
    return found


def _from_zstd(body: bytes, limit: int) -> bytes:
    """At most a piece's worth more than the limit: 16 MiB, when every block of it is a run of one byte."""
    from zstandard import ZstdDecompressor, ZstdError  # only few clients compress

    decoder = ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
    found = bytearray()
    try:
        for start in range(0, len(body), ZSTD_PIECE):
            found += decoder.decompress(body[start : start + ZSTD_PIECE])
            if len(found) > limit:
                return bytes(found)
    except ZstdError as error:
        raise InvalidRequest(f"invalid zstd body: {error}") from None
    if not decoder.eof or decoder.unused_data:
        raise InvalidRequest("invalid zstd body: it does not end where it should")
    return bytes(found)
