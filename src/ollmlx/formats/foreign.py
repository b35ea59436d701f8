"""Names what lies in a file that should hold weights and does not: by its first bytes. Pure."""

from __future__ import annotations

from typing import Final

HEAD: Final = 512
"""Bytes that are enough to know."""
_BEGINNINGS: Final = (
    (b"version https://git-lfs", "it is a Git LFS pointer: the weights themselves were not downloaded (git lfs pull)"),
    (b"GGUF", "it is a GGUF file under another name"),
    (b"PK\x03\x04", "it is a zip file or a PyTorch checkpoint, not safetensors"),
    (b"\x80\x02", "it is a pickle of PyTorch, not safetensors"),
)
_TEXTS: Final = (
    ((b"<!doctype", b"<html", b"<?xml", b"<head"), "it is a web page, which a download saved in place of the weights"),
    ((b'{"error', b'{"message', b'{"detail', b"access to", b"invalid username", b"repository not found"),
     "it is an error message of a server, which a download saved in place of the weights"),
)  # fmt: skip


def foreign_content(head: bytes, size: int) -> str | None:
    """Return what a file is instead of weights, as a sentence without its subject; None if nothing is known of it."""
    if not size:
        return "it is empty"
    if not any(head):
        return "it begins with zeros: it was not written to its end when the disk was full or the power failed"
    for beginning, meaning in _BEGINNINGS:
        if head.startswith(beginning):
            return meaning
    text = b"".join(head.split(b" ")[:8]).lstrip().lower() if head.lstrip().startswith(b"{") else head.lstrip().lower()
    return next((meaning for beginnings, meaning in _TEXTS if text.startswith(beginnings)), None)
