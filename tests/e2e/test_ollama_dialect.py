"""A model of Ollama's with its projector inside the file: refused with the ways out; its converted copy sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import StartDaemon
from tests.pictures import base64_of, drawn
from tests.servers.dialects import FAMILIES, write_ollamas, write_stock
from tests.servers.ollama_folder import OllamaFolder

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PARAMS = b'{"temperature":0,"num_predict":12}'


def answer(one: Daemon, model: str, **fields: Any) -> tuple[str, list[float]]:
    """Return the text, and how likely each of its tokens was: random weights often say the same."""
    message = {"role": "user", "content": "what is it?", **fields}
    answered = one.post("/api/chat", {"model": model, "messages": [message], "stream": False, "logprobs": True})
    assert answered.status_code == 200, answered.text
    body = answered.json()
    return body["message"]["content"], [round(token["logprob"], 4) for token in body["logprobs"]]


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "qwen25vl"])
def test_a_file_in_ollamas_dialect_is_refused_and_its_converted_copy_answers_as_the_stock_file(
    daemon: StartDaemon, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    one = daemon(fakes=None, settings={"plugins": {"disabled": ["hub", "pypi"]}})
    folder, family = OllamaFolder(one.models), FAMILIES[name]
    stock, projector = write_stock(tmp_path, family)
    layers = {"params": PARAMS, "system": b"Be brief.", "license": b"Gemma"}
    eyes = {"projector": projector.read_bytes()} if projector is not None else {}
    folder.add("stock", {"model": stock.read_bytes(), **eyes, **layers}, model_family=family.architecture)
    folder.add("m", {"model": write_ollamas(tmp_path, family).read_bytes(), **layers}, tag="4b", model_family=name)
    before = folder.contents()

    copy = "ollmlx create m-converted:4b --from-ollama m:4b"
    shown = one.cli("show", "m:4b")
    assert "the file is in Ollama's own dialect of GGUF" in " ".join(shown.stdout.split())
    ran = one.cli("run", "m:4b", "hello")
    assert ran.returncode == 1
    assert "llamacpp: the file is in Ollama's own dialect of GGUF, which llama.cpp does not read" in ran.stderr
    assert copy in ran.stderr
    assert one.post("/api/show", {"model": "m:4b"}).json()["capabilities"] == ["completion"]
    report = json.loads(one.cli("doctor", "storage", "--json", "--config", str(one.config)).stdout)
    (finding,) = [each for each in report["findings"] if each["subject"] == "m:4b"]
    assert finding["code"] == "MDL005"
    assert copy in " ".join(finding["evidence"])

    made = one.cli(*copy.split()[1:])
    assert made.returncode == 0, made.stderr
    after = folder.contents()
    assert all(after[path][0] == content for path, (content, *_) in before.items()), "the original is as it was"
    converted = one.post("/api/show", {"model": "m-converted:4b"}).json()
    assert (converted["backend"], converted["system"]) == ("llamacpp", "Be brief.")
    assert converted["details"]["family"] == family.architecture
    assert answer(one, "m-converted:4b") == answer(one, "stock")
    if projector is not None:
        assert "vision" in converted["capabilities"]
        red, blue = ([base64_of(drawn(color))] for color in ("red", "blue"))
        seen = answer(one, "m-converted:4b", images=red)
        assert seen == answer(one, "stock", images=red)
        assert seen != answer(one, "m-converted:4b", images=blue)
    for again, words in (("m:4b", "needs a name of its own"), ("stock", "nothing to convert")):
        refused = one.cli("create", "m:4b", "--from-ollama", again)
        assert refused.returncode == 1
        assert words in refused.stderr
    assert one.post("/api/create", {"model": "x", "files": {"a": "b"}, "convert": True}).status_code == 400
