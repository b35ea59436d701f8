"""The verbs with a scripted daemon: their requests, their output, their exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import CommandLine, ScriptedDaemon

from ollmlx.cli.daemon import mentions
from ollmlx.cli.models import description, processor

DIGEST = "0123456789ab" + "c" * 52
MODEL = {"name": "parrot:latest", "digest": DIGEST, "size": 102_000_000, "modified_at": "2020-01-01T00:00:00Z"}
LOADED = {**MODEL, "size_vram": 0, "context_length": 8192, "expires_at": "2318-01-01T00:00:00Z", "pid": 7, "notes": []}
FINAL = {"model": "parrot", "response": "", "done": True, "eval_count": 2, "eval_duration": 1_000_000_000}


def test_list_prints_a_line_for_each_model(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("GET", "/api/tags", {"models": [MODEL, {**MODEL, "name": "robot:1b"}]})
    header, first, _ = ollmlx("list").out.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert first.split()[:4] == ["parrot:latest", DIGEST[:12], "102", "MB"]
    assert "parrot" not in ollmlx("ls", "ROB").out
    assert [model["name"] for model in json.loads(ollmlx("list", "--json", "rob").out)["models"]] == ["robot:1b"]


def test_ps_prints_the_processor_and_the_expiry_of_a_model(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("GET", "/api/ps", {"models": [LOADED]})
    out = ollmlx("ps").out
    assert "100% CPU" in out
    assert out.rstrip().endswith("Forever")
    assert "pid" in ollmlx("ps", "-v").out
    request = {"id": "req-1", "client": "anna", "model": "m", "tokens": 0, "tokens_per_second": 0.0}
    progress = [("waiting", None, "waiting"), ("reading", {"done": 30, "total": 80}, "reading 37%")]
    requests = [{**request, "state": state, "prompt": prompt} for state, prompt, _ in progress]
    daemon.says("GET", "/api/daemon/requests", {"requests": requests})
    told = ollmlx("ps", "-v").out
    assert all(re.search(rf"req-1 +anna +m +{shown} +0 +0.0", told) for *_, shown in progress)
    assert json.loads(ollmlx("ps", "--json").out)["models"] == [LOADED]
    daemon.script.clear()
    daemon.says("GET", "/api/ps", {"models": [{**LOADED, "state": "starting"}]})
    assert ollmlx("ps").out.rstrip().endswith("Loading...")


@pytest.mark.parametrize(
    ("size", "on_gpu", "printed"),
    [(10, 0, "100% CPU"), (10, 10, "100% GPU"), (10, 4, "60%/40% CPU/GPU"), (0, 0, "Unknown"), (1, 2, "Unknown")],
)
def test_the_processor_is_shown_in_ollamas_words(size: int, on_gpu: int, printed: str) -> None:
    assert processor(size, on_gpu) == printed


def test_show_prints_sections_or_one_part(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    shown = {
        "details": {"family": "llama", "parameter_size": "1B", "quantization_level": "4bit"},
        "model_info": {"general.architecture": "llama", "llama.context_length": 2048, "a.list": [1, 2, 3, 4]},
        "capabilities": ["completion", "tools"],
        "parameters": 'stop    "a b"\nseed    7',
        "system": "Be kind.",
        "license": "MIT License\n\nCopyright\nthird line",
        "tensors": [{"name": "w", "type": "F32", "shape": [2, 3]}],
    }
    daemon.says("POST", "/api/show", shown)
    out = ollmlx("show", "parrot").out
    for expected in ("    context length    2048", "    tools", '    stop    "a b"', "    Be kind.", "    Copyright"):
        assert expected in out
    assert "third line" not in out
    assert "Tensors" not in out
    assert "    w    F32    [2, 3]" in ollmlx("show", "parrot", "-v").out
    assert ollmlx("show", "parrot", "--system").out == "Be kind.\n"
    assert ollmlx("show", "parrot", "--template").out == "\n"
    assert ollmlx("show", "parrot", "--system", "--license").code == 2


def test_show_prints_the_store_and_what_a_model_needs_to_run() -> None:
    out = description({"store": "mlx", "backend": "mlx", "capabilities": ["completion"]})
    assert "    store      mlx\n    backend    mlx\n" in out
    assert "Cannot be run" not in out
    problem = {"problem": "no backend can run parrot", "hint": "pip install 'ollmlx[llamacpp]'"}
    out = description({"store": "ollama", "backend": "", **problem})
    assert "    backend    none" in out
    assert out.endswith("  Cannot be run\n    no backend can run parrot\n    pip install 'ollmlx[llamacpp]'")


def test_bench_names_the_command_that_creates_the_same_weights_for_a_backend(
    daemon: ScriptedDaemon, ollmlx: CommandLine
) -> None:
    daemon.says("POST", "/api/show", {"backend": "mlx", "details": {"parent_model": ""}})
    daemon.says("GET", "/api/tags", {"models": []})
    for answer in ({}, {"load_duration": 1}, {}):
        daemon.says("POST", "/api/generate", answer)
    daemon.says("POST", "/api/generate", {"error": "no backend can run parrot", "code": "MDL005"}, status=400)
    outcome = ollmlx("bench", "parrot", "--against-backend", "llamacpp")
    assert outcome.code == 1
    assert "no model here has the weights of parrot for the backend 'llamacpp'" in outcome.err
    assert "ollmlx create NAME -f Modelfile --backend llamacpp" in outcome.err
    assert daemon.bodies("/api/generate")[-1]["options"] == {"backend": "llamacpp", "num_predict": 1}


def test_rm_continues_after_a_model_that_is_not_installed(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("DELETE", "/api/delete", {"error": "model 'nope' not found"}, status=404)
    daemon.says("DELETE", "/api/delete")
    outcome = ollmlx("rm", "nope", "parrot")
    assert outcome.code == 1
    assert outcome.out == "deleted 'parrot'\n"
    assert "model 'nope' not found" in outcome.err


def test_cp_and_stop_send_a_request(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("POST", "/api/copy")
    daemon.says("POST", "/api/generate", FINAL)
    assert ollmlx("cp", "a", "b").code == 0
    assert daemon.bodies("/api/copy") == [{"source": "a", "destination": "b"}]
    assert ollmlx("stop", "a").code == 0
    assert daemon.bodies("/api/generate") == [{"model": "a", "keep_alive": 0, "stream": False}]


def test_version_prints_client_and_daemon(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("GET", "/api/version", {"version": "0.33.0", "ollmlx": "9.9.9"})
    assert "API version 0.33.0 (ollmlx 9.9.9)" in ollmlx("version").out
    assert json.loads(ollmlx("version", "--json").out)["daemon"]["version"] == "0.33.0"


def test_pull_prints_each_status_once_on_standard_error(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    steps = [{"status": "pulling a", "completed": n, "total": 2} for n in range(3)]
    daemon.streams("/api/pull", {"status": "pulling manifest"}, *steps, {"status": "success"})
    outcome = ollmlx("pull", "parrot")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.splitlines() == ["pulling manifest", "pulling a", "success"]
    lines = [json.loads(line) for line in ollmlx("pull", "--json", "parrot").out.splitlines()]
    assert lines[-1] == {"status": "success"}


def test_a_dry_run_prints_what_would_be_pulled_and_fails_when_nothing_runs_here(
    daemon: ScriptedDaemon, ollmlx: CommandLine
) -> None:
    fits = {
        "source": "hub", "origin": "hub:org/a@main", "size": 3_000_000, "backend": "mlx", "context_length": 4096,
        "model_context": 32768, "memory": 5_000_000_000, "fits": True, "error": "", "hint": "",
    }  # fmt: skip
    refused = {**fits, "origin": "", "source": "ollama", "error": "no such model"}
    daemon.says("POST", "/api/pull", {"model": "a", "candidates": [fits, refused]})
    daemon.says("POST", "/api/pull", {"model": "a", "candidates": [refused]})
    outcome = ollmlx("pull", "--dry-run", "a")
    assert daemon.bodies("/api/pull")[-1] == {"model": "a", "insecure": False, "dry_run": True}
    assert outcome.code == 0
    row = outcome.out.splitlines()[1]
    assert row.split() == ["hub:org/a@main", "3.0", "MB", "mlx", "4,096", "of", "32,768", "5.0", "GB", "yes"]
    assert "ollama: no such model" in outcome.err
    nothing = ollmlx("pull", "--dry-run", "a")
    assert (nothing.code, nothing.out) == (1, "")


@pytest.mark.parametrize(
    ("lines", "cut", "message"),
    [
        ([{"error": "disk full", "code": "STO004"}], False, "Error: disk full"),
        ([], False, "in the middle of its answer"),
        ([], True, "in the middle of its answer"),
    ],
)
def test_an_error_in_a_stream_and_an_incomplete_stream_are_failures(
    daemon: ScriptedDaemon, ollmlx: CommandLine, lines: list[Any], message: str, *, cut: bool
) -> None:
    daemon.streams("/api/pull", {"status": "pulling manifest"}, *lines, cut=cut)
    outcome = ollmlx("pull", "parrot")
    assert outcome.code == 1
    assert message in outcome.err


def test_run_streams_the_answer_and_pulls_a_missing_model(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("POST", "/api/show", {"error": "model 'parrot' not found"}, status=404)
    daemon.says("POST", "/api/show", {"capabilities": ["completion"]})
    daemon.streams("/api/pull", {"status": "success"})
    daemon.streams("/api/generate", {"response": "Hello "}, {"response": "you"}, FINAL)
    outcome = ollmlx("run", "parrot", "--verbose", "Say", "hello", "--keepalive", "1h", "--think=low")
    assert outcome.out == "Hello you\n"
    assert "eval rate:            2.00 tokens/s" in outcome.err
    asked = daemon.bodies("/api/generate")[-1]
    assert asked == {"model": "parrot", "prompt": "Say hello", "keep_alive": "1h", "think": "low"}


def test_a_piped_text_comes_before_the_prompt(
    daemon: ScriptedDaemon, ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("piped\n"))
    daemon.says("POST", "/api/show", {"capabilities": ["completion"]})
    daemon.streams("/api/generate", {"response": "x"}, FINAL)
    ollmlx("run", "parrot", "Summarise")
    assert daemon.bodies("/api/generate")[0]["prompt"] == "piped\n Summarise"


def test_thinking_is_set_apart_or_hidden(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("POST", "/api/show", {"capabilities": ["completion", "thinking"]})
    daemon.streams("/api/generate", {"thinking": "Hm."}, {"response": "Yes."}, FINAL)
    assert ollmlx("run", "parrot", "Is it?").out == "Thinking...\nHm.\n...done thinking.\n\nYes.\n"
    assert ollmlx("run", "parrot", "Is it?", "--hidethinking").out == "Yes.\n"


def test_a_model_for_embeddings_prints_its_vector(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("POST", "/api/show", {"capabilities": ["embedding"]})
    daemon.says("POST", "/api/embed", {"embeddings": [[0.5, 1.0]]})
    assert ollmlx("run", "parrot", "a text", "--dimensions", "2").out == "[0.5, 1.0]\n"
    assert daemon.bodies("/api/embed") == [{"model": "parrot", "input": "a text", "dimensions": 2}]


def test_create_uploads_what_the_daemon_lacks_and_sends_the_modelfile(
    daemon: ScriptedDaemon, ollmlx: CommandLine, tmp_path: Path
) -> None:
    weights = tmp_path / "model folder"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    (weights / "config.json").write_bytes(b"{}")
    (weights / "notes.txt").write_bytes(b"not a part of it")
    (tmp_path / "Modelfile").write_text('FROM "./model folder"\nPARAMETER seed 7\nPARAMETER stop a\nPARAMETER stop b\n')
    known = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    daemon.says("HEAD", f"/api/blobs/{known}")
    digest = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    daemon.says("POST", f"/api/blobs/{digest}", status=201)
    daemon.streams("/api/create", {"status": "success"})
    outcome = ollmlx("create", "mine", "-q", "int4")
    assert outcome.code == 0, outcome.err
    assert daemon.bodies(f"/api/blobs/{digest}")[-1] == b"weights"
    assert not [request for request in daemon.requests if request.method == "POST" and known in request.path]
    assert daemon.bodies("/api/create") == [
        {
            "model": "mine",
            "stream": True,
            "quantize": "int4",
            "files": {"model.safetensors": digest, "config.json": known},
            "parameters": {"seed": 7, "stop": ["a", "b"]},
        }
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM ./missing.gguf", "there is no file"),
        ("FROM parrot\nADAPTER ./missing", "there is no file"),
        ("FROM parrot\nPARAMETER bogus 1", "unknown parameter 'bogus'"),
        ("FROM parrot\nPARAMETER seed x", "PARAMETER seed"),
        ("FROM .", "holds no model: no safetensors"),
    ],
)
def test_create_refuses_a_modelfile_that_cannot_work(
    daemon: ScriptedDaemon, ollmlx: CommandLine, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "Modelfile").write_text(text)
    outcome = ollmlx("create", "mine")
    assert outcome.code == 1
    assert problem in outcome.err
    assert not daemon.bodies("/api/create")


def test_create_does_not_follow_a_link_out_of_the_folder(
    daemon: ScriptedDaemon, ollmlx: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"w")
    (tmp_path / "weights" / "config.json").symlink_to(tmp_path / "secret")
    (tmp_path / "Modelfile").write_text("FROM ./weights")
    assert "leads out of its folder" in ollmlx("create", "mine").err


def test_logs_prints_the_lines_of_one_runner_as_text(
    ollmlx: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLMLX_STORAGE__STATE", str(tmp_path / "state"))
    assert ollmlx("logs").code == 1
    folder = tmp_path / "state" / "logs"
    folder.mkdir(parents=True)
    line = {"time": "2026-01-01T00:00:00+00:00", "level": "info", "message": "parrot#1 is ready", "request": "req-1"}
    (folder / "daemon.log.1").write_text("an old line\n")
    (folder / "daemon.log").write_text(json.dumps(line) + "\n" + json.dumps({**line, "message": "robot#1 left"}) + "\n")
    out = ollmlx("logs", "parrot").out
    assert out.rstrip().endswith("INFO    parrot#1 is ready request=req-1")
    assert "robot" not in out
    assert ollmlx("logs").out.startswith("an old line\n")
    assert len(ollmlx("logs", "-n", "1").out.splitlines()) == 1
    assert json.loads(ollmlx("logs", "parrot", "--json").out) == line


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("parrot#1 is ready", True),
        ("waiting for parrot:latest; 1 wait", True),
        ('{"message":"POST /api/chat 200","model":"Parrot"}', True),
        ("parrot2#1 is ready", False),
        ("a-parrot#1 is ready", False),
        ("parrot-vision#1 is ready", False),
        ("the parrots are ready", False),
    ],
)
def test_logs_does_not_confuse_models_with_similar_names(line: str, reported: bool) -> None:
    assert mentions(line, "parrot") is reported


def test_an_api_key_travels_with_each_call(
    daemon: ScriptedDaemon, ollmlx: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.says("GET", "/api/tags", {"models": []})
    (tmp_path / "ollmlx.toml").write_text('[security]\napi_keys = ["from-the-settings"]\n')
    assert ollmlx("config", "trust").code == 0
    assert ollmlx("list").code == 0
    assert daemon.requests[-1].headers["authorization"] == "Bearer from-the-settings"
    assert ollmlx("list", "--host", daemon.url).code == 0
    assert "authorization" not in daemon.requests[-1].headers, "the settings' key belongs to the settings' address"
    monkeypatch.setenv("OLLAMA_API_KEY", "mine")
    ollmlx("list")
    assert daemon.requests[-1].headers["authorization"] == "Bearer mine"


def test_proxy_variables_do_not_capture_calls(
    daemon: ScriptedDaemon, ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    daemon.says("GET", "/api/tags", {"models": []})
    assert ollmlx("list").code == 0


def test_the_daemons_message_is_the_error_with_the_next_step_and_the_runbook(
    daemon: ScriptedDaemon, ollmlx: CommandLine
) -> None:
    daemon.says("POST", "/api/show", {"error": "it is broken", "hint": "mend it", "code": "RUN002"}, status=500)
    expected = ["Error: it is broken", "  hint: mend it", "  more: ollmlx doctor --explain RUN002"]
    assert ollmlx("show", "x").err.splitlines() == expected


@pytest.mark.parametrize(
    ("words", "method", "path", "status"),
    [(("show", "tiny"), "POST", "/api/show", 501), (("list",), "GET", "/api/tags", 404)],
)
def test_another_program_is_reported_without_its_page(
    daemon: ScriptedDaemon, ollmlx: CommandLine, words: tuple[str, ...], method: str, path: str, status: int
) -> None:
    daemon.says(method, path, "<html>Error</html>", status=status)
    outcome = ollmlx(*words)
    assert outcome.code == 1
    assert "does not speak Ollama's API" in outcome.err
    assert "hint: ollmlx doctor server" in outcome.err
    assert "<html>" not in outcome.err


@pytest.mark.finding("PLG006")
def test_a_daemon_without_ollamas_routes_is_reported_as_such(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("GET", "/api/tags", "404 page not found", status=404)
    daemon.says("GET", "/api/daemon", {"version": "0.1.0", "protocol": 1})
    outcome = ollmlx("list")
    assert outcome.code == 1
    assert "does not serve Ollama's API: its plugin 'ollama_api' is off" in outcome.err
    assert "more: ollmlx doctor --explain PLG006" in outcome.err


def test_no_daemon_is_started_for_an_address_elsewhere(ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    outcome = ollmlx("run", "--host", "example.invalid:11434", "parrot", "hi")
    assert outcome.code == 1
    assert "no daemon answers at http://example.invalid:11434" in outcome.err
