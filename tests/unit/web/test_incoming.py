"""A body on its way in."""

from __future__ import annotations

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from ollmlx.web.request import FlowingBody


@pytest.mark.fault(38)
async def test_nothing_is_held_of_a_body_that_is_too_large() -> None:
    body = FlowingBody(None, 10)
    for piece in (b"0123456789", b"0", b"more"):
        body.append(piece)
    assert len(body._data) == 0
    with pytest.raises(RequestEntityTooLarge):
        await body
