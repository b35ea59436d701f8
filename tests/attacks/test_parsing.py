"""Attack: templates, schemas and headers that take their parser hours or gigabytes. The daemon froze for a minute."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers
from tests.servers.tiny import tiny_files

from ollmlx import LimitExceeded, check_template, read_gguf_header, read_safetensors_header, run_limited
from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.helper import close_helpers
from ollmlx.helper.pool import OUTPUT
from ollmlx.model.templates import render_template
from ollmlx.runner.kit import check_schema
from ollmlx.storekit import read_json

NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
PATTERNS = {
    "allOf": [{"type": "string", "pattern": f"(.*{chr(97 + i % 26)}.{{{5 + i}}}.*)"} for i in range(40)],
}
HI = [{"role": "user", "content": "hi"}]


def gguf_text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def many_arrays(megabytes: int) -> bytes:
    """A GGUF header of short arrays with a thousand texts each: none is long enough to be skipped."""
    arrays = megabytes * 1024 * 1024 // 9000
    pairs = [gguf_text(b"k%d" % i) + struct.pack("<IIQ", 9, 8, 1000) + gguf_text(b"a") * 1000 for i in range(arrays)]
    head = gguf_text(b"general.architecture") + struct.pack("<I", 8) + gguf_text(b"llama")
    return b"GGUF" + struct.pack("<IQQ", 3, 0, arrays + 1) + head + b"".join(pairs) + bytes(64)


def many_tensors(megabytes: int) -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"tensor{i:07}": entry for i in range(megabytes * 1024 * 1024 // 72)}).encode()
    return struct.pack("<Q", len(header)) + header


def long_config(megabytes: int) -> bytes:
    return json.dumps(json.loads(tiny_files()["config.json"])).encode()[:-1] + b', "x": [%s[]]}' % (
        b"[]," * (megabytes * 1024 * 1024 // 3)
    )


def add_hostile_models(models: Path) -> None:
    """Add a good model to both stores, and every hostile file."""
    folder = OllamaFolder(models)
    folder.add("good-gguf")
    folder.add("braces", usual_layers(tiny_gguf(fill=2), template=b"{{" * 60_000))
    folder.add("long-template", usual_layers(tiny_gguf(fill=3), template=b"{{ x " * (2 << 20)))
    folder.add("arrays", usual_layers(many_arrays(15)))
    hostile = {
        "good-mlx": {},
        "config": {"config.json": long_config(30)},
        "header": {"model.safetensors": many_tensors(15)},
        "template": {"chat_template.jinja": b"{{" * (1 << 20)},
        "architecture": {"config.json": json.dumps(
            {**json.loads(tiny_files()["config.json"]), "architectures": ["Bert" * 200_000 + "!"]}
        ).encode()},
    }  # fmt: skip
    for name, files in hostile.items():
        (models / "mlx" / name).mkdir(parents=True)
        for path, data in {**tiny_files(), **files}.items():
            (models / "mlx" / name / path).write_bytes(data)


def peak_megabytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise AssertionError("the kernel reports no peak")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_no_file_of_a_model_occupies_the_daemon_or_fills_its_memory(daemon: StartDaemon) -> None:
    one = daemon(fakes=None, settings={"plugins": {"disabled": ["pypi"]}})
    one.get("/api/tags")
    process = psutil.Process(one.process.pid)
    memory, cpu = peak_megabytes(process.pid), process.cpu_times()
    add_hostile_models(one.models)
    names = {model["name"].removesuffix(":latest") for model in one.get("/api/tags").json()["models"]}
    assert names == {"good-gguf", "good-mlx", "braces", "architecture"}
    for bad in ("long-template", "arrays", "config", "header", "template"):
        assert one.post("/api/show", {"model": bad}).status_code in (400, 500)
    later = process.cpu_times()
    assert later.user + later.system - cpu.user - cpu.system < 10, "before: 20 to 60 s, on the event loop"
    assert peak_megabytes(process.pid) - memory < 150, "before: 1560 MB for the configuration alone"
    for bad in ("braces", "long-template", "arrays", "config", "header", "template", "architecture"):
        gone = httpx2.request("DELETE", f"{one.url}/api/delete", json={"model": bad}, timeout=60)
        assert gone.status_code == 200
    names = {model["name"] for model in one.get("/api/tags").json()["models"]}
    assert names == {"good-gguf:latest", "good-mlx:latest"}


@pytest.mark.parametrize(
    ("work", "limit"),
    [
        (lambda: render_template(NESTED, {"messages": HI}), "2 s of CPU time"),
        (lambda: render_template(DOUBLED, {"messages": HI}), "512 MiB of memory"),
        (lambda: render_template("{{ 'x' * 9999999 }}", {"messages": HI}), "8 MiB"),
        (lambda: render_template("{{ x }}" * 100_000, {"messages": HI}), "256 KiB"),
        (lambda: check_template("{{" * 60_000), "nested too deeply"),
        (lambda: check_schema(json.dumps(PATTERNS)), "the format takes"),
        (lambda: check_schema(json.dumps({"enum": ["x" * 300_000]})), "256 KiB"),
    ],
    ids=["loops", "doubling", "a long answer", "a long template", "braces", "patterns", "a long schema"],
)  # fmt: skip
def test_a_request_that_reaches_a_limit_is_told_which(work: Callable[[], object], limit: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        work()
    assert limit in refused.value.message
    assert render_template("{{ messages[0].content }}", {"messages": HI}) == "hi", "the next one is served"


def test_three_hostile_requests_leave_the_model_loaded(daemon: StartDaemon, smollm2_models: Path) -> None:
    one = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models)}})
    ask: dict[str, Any] = {"model": "smollm2:135m", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    assert one.post("/api/generate", ask).status_code == 200
    (loaded,) = one.loaded()
    for _ in range(3):
        refused = one.post("/api/generate", {**ask, "template": NESTED})
        assert refused.status_code == 400
        assert "CPU time" in refused.json()["error"]
    refused = one.post("/api/generate", {**ask, "format": PATTERNS})
    assert refused.status_code == 400
    assert "the format takes more than" in refused.json()["error"]
    assert one.post("/api/generate", ask).status_code == 200
    assert [model["pid"] for model in one.loaded()] == [loaded["pid"]]


def test_large_files_are_read_within_limits(tmp_path: Path) -> None:
    header = tmp_path / "m.safetensors"
    header.write_bytes(many_tensors(4))
    assert len(read_safetensors_header(header)) > 50_000
    (tmp_path / "tokenizer_config.json").write_bytes(long_config(8))
    assert read_json(tmp_path, "tokenizer_config.json", keys=("model_type",)) == {"model_type": "llama"}
    (tmp_path / "m.gguf").write_bytes(many_arrays(2))
    assert len(read_gguf_header(tmp_path / "m.gguf", longest=10).metadata) > 200
    (tmp_path / "n.gguf").write_bytes(many_arrays(15))
    with pytest.raises(StorageError, match="too many items"):
        read_gguf_header(tmp_path / "n.gguf", longest=1024)


def test_a_helper_hands_over_plain_data_only() -> None:
    with pytest.raises(Exception, match="is not plain data"):
        run_limited(Path, "x", what="it")
    with pytest.raises(LimitExceeded, match=f"it has a result of more than {OUTPUT >> 20} MiB"):
        run_limited(bytes, OUTPUT, what="it")
    assert run_limited(sum, [1, 2], what="it") == 3


def test_helpers_are_few_are_reused_and_end_with_their_parent() -> None:
    program = (
        "import os, threading\nfrom ollmlx.helper import run_limited\nfound = []\n"
        "def work(): found.append(run_limited(os.getpid, what='it'))\n"
        "threads = [threading.Thread(target=work) for _ in range(16)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(*found, flush=True); os._exit(0)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    pids = {int(word) for word in ran.stdout.split()}
    assert 1 <= len(pids) <= 2
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)  # this process adopts orphans
        assert not psutil.pid_exists(pid)
    first = run_limited(os.getpid, what="it")
    assert run_limited(os.getpid, what="it") == first
    close_helpers()
    assert run_limited(os.getpid, what="it") != first
