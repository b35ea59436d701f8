"""The request as Quart sees it, with a body that is limited for all routes and flows for uploads."""

from __future__ import annotations

from typing import Any

from quart.wrappers import Body, Request

from ollmlx.web.context import Exchange

HIGH_WATER = 1024 * 1024  # bytes of an upload held in memory before the socket is read on


class FlowingBody(Body):
    """A body that stops the socket while its reader is busy, and holds nothing of what is refused for its size."""

    exchange: Exchange | None = None

    def append(self, data: bytes) -> None:
        super().append(data)
        if self._must_raise is not None:
            self._data.clear()  # error and request hold one another until the garbage collector comes by
        if self.exchange is not None and len(self._data) > HIGH_WATER:
            self.exchange.room.clear()


class IncomingRequest(Request):
    """Uploads have no size limit and a flowing body."""

    body_class = FlowingBody

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        exchange: Exchange | None = kwargs["scope"].get("ollmlx.exchange")
        upload = exchange is not None and exchange.upload
        if upload:
            kwargs["max_content_length"] = None
        super().__init__(*args, **kwargs)
        if upload and isinstance(self.body, FlowingBody):
            self.body.exchange = exchange
