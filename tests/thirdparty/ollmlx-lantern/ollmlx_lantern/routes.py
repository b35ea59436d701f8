"""The route family: `GET /lantern` tells how much oil there is, `POST /lantern/say` has a model say something."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from quart import Blueprint, Response

    from ollmlx import Service


class Say(BaseModel):
    """The body of `POST /lantern/say`."""

    model: str
    text: str


def family(oil: int) -> Callable[[Service], Blueprint]:
    """The family over a service, for this much oil."""

    def blueprint(service: Service) -> Blueprint:
        from quart import Blueprint

        from ollmlx import ModelName, closing
        from ollmlx.types import GenerateRequest, Text
        from ollmlx.web import caller, declare_errors, describe, json_answer, plain_shape, read_model

        made = Blueprint("lantern", __name__)
        declare_errors(made, plain_shape, "/lantern")

        @made.get("/lantern")
        async def lantern() -> Response:
            return json_answer({"oil": oil})

        @made.post("/lantern/say")
        @describe("Have a model say something.", body=Say)
        async def say() -> Response:
            body = await read_model(Say)
            request = GenerateRequest(prompt=body.text)
            said = ""
            async with closing(service.generate(ModelName.parse(body.model), request, caller=caller())) as events:
                async for event in events:
                    said += event.text if isinstance(event, Text) else ""
            return json_answer({"said": said})

        return made

    return blueprint
