"""Healthy machines of many kinds: the doctor names no problem on any of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doctor.contexts import GB, HEALTHY, MAC, FakeDaemon, FakeProcesses, daemon, examined, healthy
from tests.unit.doctor.test_checks_storage import put

from ollmlx.errors.findings import Severity

KEY = "k" * 40
BUSY: dict[str, Any] = {"runners": [{"name": "m", "state": "busy", "pid": 9, "memory": GB, "restarts": 0}]}
CONTAINER = {"pid": 1, "models_folder": "/root/.ollama/models", **BUSY}
VARIANTS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "no daemon": {"daemon": FakeDaemon({})},
    "a busy daemon": {"daemon": daemon("/api/daemon", BUSY)},
    "a daemon in a container": {"daemon": daemon("/api/daemon", CONTAINER), "processes": FakeProcesses(living=(9,))},
    "a runner that computes": {
        "daemon": daemon("/api/daemon", {"pid": 77, "runners": [{**BUSY["runners"][0], "active": 1}]}),
        "processes": FakeProcesses(living=(9, 77), vital={"core": 2.0}),
    },
    "a Mac": {"machine": MAC},
    "a small container": {"machine": replace(HEALTHY, container_limit=8 * GB)},
    "a container without a limit": {"machine": replace(HEALTHY, in_container=True)},
    "a machine whose memory is unknown": {"machine": replace(HEALTHY, ram=0, available=0, swap_total=0)},
    "a machine without swap": {"machine": replace(HEALTHY, swap_total=0)},
    "another port": {"environ": {"OLLAMA_HOST": "127.0.0.1:11999"}},
    "all addresses with a key": {"environ": {"OLLAMA_HOST": "0.0.0.0:11434", "OLLMLX_SECURITY__API_KEYS": KEY}},
    "IPv6": {"environ": {"OLLAMA_HOST": "[::1]:11434"}},
    "a proxy that spares this machine": {"environ": {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1"}},
    "variables of Ollama that nothing reads": {"environ": {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_NOPRUNE": "1"}},
    "a token": {"environ": {"HF_TOKEN": "hf_abc"}},
    "a long keep-alive": {"environ": {"OLLAMA_KEEP_ALIVE": "-1"}},
    "settings": {"toml": '[runners]\nparallel = 2\nkeep_alive = "10m"'},
    "a plugin switched off": {"toml": '[plugins]\ndisabled = ["pypi"]'},
    "models": {"models": ("org_one", "org_two", "three")},
    "a model with a manifest": {"named": "org/name:latest"},
    "an alias of an installed model": {"models": ("org_one",), "toml": '[aliases]\nshort = "org/one"'},
    "a declared model": {"models": ("org_one",), "toml": '[models.mine]\nfrom = "org/one"'},
    "every address of IPv6 with a key": {"environ": {"OLLAMA_HOST": "[::]:11434", "OLLMLX_SECURITY__API_KEYS": KEY}},
    "a proxy for other hosts only": {"environ": {"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}},
    "a key in the settings": {"toml": f'[security]\napi_keys = ["{KEY}"]'},
    "an address of this machine by name": {"environ": {"OLLAMA_HOST": "localhost"}},
    "a context length and a folder of Ollama's": {"environ": {"OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_ORIGINS": "app://x"}},
    "two stores": {"models": ("org_one",), "files": ("models/manifests/.DS_Store", "models/blobs/.keep")},
    "files of a file manager": {"files": ("models/mlx/.DS_Store", "models/.Trash/x", "models/lost+found/y")},
    "a pull that runs": {"files": ("models/mlx/.staging/org_new/model.safetensors",), "now": time.time},
    "copies that the doctor kept": {"models": (".org_one.before-fix",), "files": (".ollmlx.toml.before-fix",)},
    "swap that is used beside free memory": {"machine": replace(HEALTHY, swap_used=6 * GB)},
    "many models": {"models": tuple(f"org_m{number}" for number in range(60))},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_healthy_machine_nothing_is_said(tmp_path: Path, variant: str) -> None:
    parts = dict(VARIANTS[variant])
    context = healthy(tmp_path, parts.pop("toml", ""), parts.pop("environ", None))
    for folder in parts.pop("models", ()):
        put(tmp_path / "models/mlx" / folder)
    for file in parts.pop("files", ()):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x", encoding="utf-8")
    if name := parts.pop("named", ""):
        put(tmp_path / "models/mlx/org_name", name=name)
    findings = examined(replace(context, **parts)).findings
    assert [one for one in findings if one.severity is not Severity.INFO] == []
