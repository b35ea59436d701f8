"""Whether a model can do what a request asks, with the sentences that clients know. Pure."""

from __future__ import annotations

from base64 import b64decode

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.model.installed import Capability, InstalledModel
from ollmlx.model.request import GenerateRequest


def require(model: InstalledModel, request: GenerateRequest) -> None:
    """Raise Unsupported when the model lacks a capability the request needs, InvalidRequest for an unreadable image."""
    name = model.name.short
    if "completion" not in model.capabilities:
        raise Unsupported(f'"{name}" does not support {"chat" if request.messages else "generate"}')
    wanted: tuple[tuple[bool, Capability], ...] = (
        (bool(request.tools) and request.tool_choice != "none", "tools"),
        (request.suffix is not None and request.suffix != "", "insert"),
    )
    for asked, capability in wanted:
        if asked and capability not in model.capabilities:
            raise Unsupported(f"{name} does not support {capability}")
    if request.think and "thinking" not in model.capabilities:
        raise Unsupported(f'"{name}" does not support thinking')
    images = [image for message in request.messages for image in message.images]
    if images and "vision" not in model.capabilities:
        raise Unsupported(f"{name} does not support images", hint="send text only, or choose a vision model")
    for image in images:
        try:
            b64decode(image, validate=True)
        except ValueError as error:
            raise InvalidRequest("invalid image input: it is not base64") from error
