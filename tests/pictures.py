"""Pictures for the tests, made by Pillow."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def drawn(color: Any = "red", size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """Return a picture whose left half is of one colour, and the right half of another."""
    picture = Image.new(mode, size, color)
    if mode == "RGB":
        picture.paste((20, 40, 60), (size[0] // 2, 0, *size))
    return picture


def file_of(picture: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def base64_of(picture: Image.Image | bytes, kind: str = "PNG", **how: Any) -> str:
    data = picture if isinstance(picture, bytes) else file_of(picture, kind, **how)
    return base64.b64encode(data).decode()
