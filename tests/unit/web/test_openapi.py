"""The OpenAPI document is made from the routes."""

from __future__ import annotations

from pydantic import BaseModel, Field
from quart import Quart

from ollmlx.web.kit.streaming import NDJSON
from ollmlx.web.openapi import describe, openapi, page


class Body(BaseModel):
    model: str = Field(description="Which <model>.")
    count: int | None = None


class Reply(BaseModel):
    text: str


def app() -> Quart:
    made = Quart("toy")

    @made.post("/say/<path:name>")
    @describe("Say something.", body=Body, answer=Reply, content=("application/json", NDJSON), error={"type": "object"})
    async def say(name: str) -> str:
        return name

    return made


def test_paths_bodies_and_answers_are_read_from_the_routes() -> None:
    document = openapi(app(), "1.2")
    post = document["paths"]["/say/{name}"]["post"]
    assert post["parameters"][0]["name"] == "name"
    body = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert document["components"]["schemas"][body.rpartition("/")[2]]["required"] == ["model"]
    assert set(post["responses"]) == {"200", "default"}
    assert set(post["responses"]["200"]["content"]) == {"application/json", NDJSON}


def test_the_page_names_every_field_and_escapes_what_it_shows() -> None:
    shown = page(openapi(app(), "1.2"))
    assert "<code>/say/{name}</code>" in shown
    assert "Which &lt;model&gt;." in shown
    assert "integer | null" in shown
    assert "http" not in shown.replace("http-equiv", "")
