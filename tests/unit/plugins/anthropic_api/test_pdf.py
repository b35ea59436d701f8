"""PDF documents are read in a process of their own; what cannot be read is refused with the reason."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.testing.routes import FakeService, web_app
from ollmlx_anthropic_api.pdf import pdf_text
from ollmlx_anthropic_api.routes import blueprint


def pdf(text: str) -> bytes:
    """A file of one page with one line of text."""
    content = f"BT /F1 12 Tf 10 10 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 50] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    made, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(made)
    made += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (made + f"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n").encode()


async def test_the_text_of_a_document_is_in_the_prompt() -> None:
    service = FakeService()
    service.say("ok")
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(pdf("Hello PDF")).decode()}
    content = [{"type": "document", "title": "Paper", "source": source}, {"type": "text", "text": "Sum it up."}]
    body = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    client: Any = web_app(service, blueprint).test_client()
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    ((_, _, request),) = service.calls
    assert request.messages[0].content == "Paper\nHello PDF\nSum it up."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no PDF at all", "cannot be read"),
        (pdf("Hello PDF")[:200], "cannot be read"),
        (pdf(""), "has no text"),
        (b"", "cannot be read"),
    ],
    ids=["another file", "cut", "no text", "empty"],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        pdf_text(data)
