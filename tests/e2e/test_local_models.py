"""Models in the folders of other programs run in place, and the folders stay as they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import user

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.slow]

REVISION = "0123456789abcdef0123456789abcdef01234567"


def contents(root: Path) -> dict[str, tuple[str, int]]:
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.lstat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }


def test_a_gguf_file_of_hugging_faces_cache_answers_and_is_copied_but_never_removed(
    daemon: StartDaemon, smollm2_gguf: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    hub = tmp_path / "hub"
    snapshot = hub / "models--me--SmolLM2-GGUF/snapshots" / REVISION
    snapshot.mkdir(parents=True)
    blobs = hub / "models--me--SmolLM2-GGUF/blobs"
    blobs.mkdir()
    (blobs / "weights").write_bytes(smollm2_gguf.read_bytes())
    (snapshot / "SmolLM2-135M-Q4_1.gguf").symlink_to("../../blobs/weights")
    before = contents(hub)
    one = daemon(settings={"plugins": {"disabled": ["pypi"]}}, env={"HF_HUB_CACHE": str(hub)})
    listed = {model["name"] for model in one.get("/api/tags").json()["models"]}
    assert "me/SmolLM2-GGUF:Q4_1" in listed
    body = {"messages": user("Say hi"), "stream": False, "options": {"temperature": 0, "num_predict": 4}}
    answered = one.post("/api/chat", {"model": "me/SmolLM2-GGUF", **body}).json()
    assert answered["message"]["content"]
    refused = one.cli("rm", "me/SmolLM2-GGUF")
    assert refused.returncode != 0
    assert "hf cache rm model/me/SmolLM2-GGUF" in refused.stderr
    assert one.cli("cp", "me/SmolLM2-GGUF", "mine").returncode == 0
    assert one.post("/api/chat", {"model": "mine", **body}).json()["message"] == answered["message"]
    assert contents(hub) == before
