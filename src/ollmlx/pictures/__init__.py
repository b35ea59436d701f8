"""The pictures of a request: fetched where that is allowed, decoded in a helper process, and checked.

A runner gets only pictures that were read once: upright, 8 bits a channel, without transparency, as PNG or JPEG.
"""

from __future__ import annotations

from ollmlx.pictures.reading import read_pictures as read_pictures
